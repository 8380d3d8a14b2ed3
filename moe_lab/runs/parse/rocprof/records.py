# SPDX-License-Identifier: Apache-2.0
"""The JSON of rocprofv3 as types: the fields that are read; times in nanoseconds, sizes in work-items and bytes.

As ``cxx/serialization`` of ROCm's rocprofiler-sdk writes them; fields with a default came with later releases.
"""

from typing import Annotated

import msgspec

KEY = "rocprofiler-sdk-tool"
Int = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class Handle(msgspec.Struct):
    """A number that the runtime gave."""

    handle: int  # unsigned, of 64 bits


class Number(msgspec.Struct):
    """A number that counts from 0."""

    handle: Int


class Correlation(msgspec.Struct):
    """What ties a call to what it launched."""

    internal: Int


class Sizes(msgspec.Struct):
    """Numbers of work-items."""

    x: Int
    y: Int
    z: Int


class Dispatch(msgspec.Struct):
    """What was launched, where and how large."""

    agent_id: Handle
    queue_id: Number
    kernel_id: Int
    workgroup_size: Sizes  # work-items
    grid_size: Sizes  # work-items
    private_segment_size: Int = -1  # bytes per work-item
    group_segment_size: Int = -1  # bytes


class Record(msgspec.Struct, kw_only=True):
    """What all rows have."""

    kind: Int
    operation: Int
    correlation_id: Correlation
    start_timestamp: Int  # ns
    end_timestamp: Int
    thread_id: Int = -1
    stream_id: Number | None = None  # since ROCm 7


class Kernel(Record, kw_only=True):
    """A dispatch of a kernel."""

    dispatch_info: Dispatch


class Copy(Record, kw_only=True):
    """A memory copy."""

    src_agent_id: Handle
    dst_agent_id: Handle


class Records(msgspec.Struct):
    """The rows of a process."""

    kernel_dispatch: list[Kernel] = []
    memory_copy: list[Copy] = []
    hip_api: list[Record] = []
    marker_api: list[Record] = []


class Symbol(msgspec.Struct):
    """A kernel: its name and registers."""

    kernel_id: Int
    kernel_name: str = ""
    formatted_kernel_name: str = ""
    arch_vgpr_count: Int = -1  # registers: since ROCm 6.3
    accum_vgpr_count: Int = -1
    sgpr_count: Int = -1


class Agent(msgspec.Struct):
    """A CPU (type 1) or a GPU (type 2)."""

    id: Handle
    node_id: Int
    type: Int
    logical_node_id: Int = -1
    name: str = ""
    product_name: str = ""
    cu_count: Int = 0
    wave_front_size: Int = 0


class Kind(msgspec.Struct):
    """What the numbers ``kind`` (the position in the list) and ``operation`` of a row mean."""

    kind: str
    operations: list[str]


class Message(msgspec.Struct):
    """The text of a range or mark, by its correlation id."""

    key: Int
    value: str


class Strings(msgspec.Struct):
    """Texts that rows refer to."""

    buffer_records: list[Kind]
    marker_api: list[Message] = []


class Node(msgspec.Struct):
    """The machine."""

    hostname: str = ""


class Metadata(msgspec.Struct):
    """The process."""

    pid: Int
    node: Node | None = None


class Process(msgspec.Struct):
    """All that is read of a process."""

    metadata: Metadata
    agents: list[Agent]
    strings: Strings
    kernel_symbols: list[Symbol]
    buffer_records: Records


class File(msgspec.Struct):
    """A file."""

    processes: Annotated[list[Process], msgspec.Meta(min_length=1)] = msgspec.field(name=KEY)


class Origin(msgspec.Struct):
    """What says where a process ran."""

    metadata: Metadata


class Origins(msgspec.Struct):
    """A file, of which only machines are read."""

    processes: list[Origin] = msgspec.field(name=KEY)
