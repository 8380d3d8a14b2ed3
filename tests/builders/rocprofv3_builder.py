KERNEL_HEADER = (
    '"Kind","Agent_Id","Queue_Id","Stream_Id","Thread_Id","Dispatch_Id","Kernel_Id","Kernel_Name","Correlation_Id",'
    '"Start_Timestamp","End_Timestamp","LDS_Block_Size","Scratch_Size","VGPR_Count","Accum_VGPR_Count","SGPR_Count",'
    '"Workgroup_Size_X","Workgroup_Size_Y","Workgroup_Size_Z","Grid_Size_X","Grid_Size_Y","Grid_Size_Z"'
)
API_HEADER = '"Domain","Function","Process_Id","Thread_Id","Correlation_Id","Start_Timestamp","End_Timestamp"'
COPY_HEADER = (
    '"Kind","Direction","Stream_Id","Source_Agent_Id","Destination_Agent_Id","Correlation_Id","Start_Timestamp",'
    '"End_Timestamp"'
)
AGENTS = (
    '"Node_Id","Logical_Node_Id","Agent_Type","Cu_Count","Wave_Front_Size","Name","Vendor_Name","Product_Name","Uuid"\n'
    '0,0,"CPU",0,0,"AMD EPYC 9654 96-Core Processor","CPU","AMD EPYC 9654 96-Core Processor","secret-uuid"\n'
    '4,4,"GPU",304,64,"gfx942","AMD","AMD Instinct MI300X","secret-uuid"\n'
)


def kernel(name, correlation, start, end, *, thread=717, stream=1, grid=(1000, 8, 1), group=(64, 4, 1)):
    sizes = ",".join(str(n) for n in (*group, *grid))
    return (
        f'"KERNEL_DISPATCH","Agent 4",1,{stream},{thread},{correlation},10,"{name}",{correlation},{start},{end},'
        f"2048,16,8,4,32,{sizes}"
    )


def marker(name, correlation, start, end, *, thread=717, domain="MARKER_CORE_API"):
    return f'"{domain}","{name}",717,{thread},{correlation},{start},{end}'


def call(name, correlation, start, end, *, thread=717):
    return f'"HIP_RUNTIME_API_EXT","{name}",717,{thread},{correlation},{start},{end}'


def write(folder, *, kernels, markers=None, calls=None, copies=None, agents=True, prefix="717_"):
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "kernel_trace": (KERNEL_HEADER, kernels),
        "marker_api_trace": (API_HEADER, markers),
        "hip_api_trace": (API_HEADER, calls),
        "memory_copy_trace": (COPY_HEADER, copies),
    }
    for name, (header, rows) in files.items():
        if rows is not None:
            (folder / f"{prefix}{name}.csv").write_text("\n".join([header, *rows]))  # the tool ends without a newline
    if agents:
        (folder / f"{prefix}agent_info.csv").write_text(AGENTS)
    return folder


# mlp holds w13 and w2; ids count up in the order in which things began, kernels run long after they were launched.
MARKERS = [
    marker("w13", 12, 1010, 1100),
    marker("w2", 15, 1200, 1300),
    marker("mlp", 11, 1000, 1400),
    marker("a mark", 16, 1290, 1290),
]
KERNELS = [
    kernel("void moe::gemm<float, (Act)1>(float*, int)", 13, 5000, 5600),
    kernel("Cijk_Ailk_Bljk_HHS_BH [clone .kd]", 17, 5600, 5900),
    kernel("reduce", 18, 5900, 5910, stream=2),
]
CALLS = [
    call("hipLaunchKernel", 13, 1020, 1030),
    call("hipModuleLaunchKernel", 17, 1295, 1299),
    call("hipLaunchKernel", 18, 1350, 1360),
    call("hipMemcpyAsync", 19, 1370, 1380),
    call("hipGetDevice", 20, 1381, 1382),
]
COPIES = ['"MEMORY_COPY","MEMORY_COPY_HOST_TO_DEVICE",0,"Agent 0","Agent 4",19,6000,6100']
