"""Parts of the reader of torch profiler traces."""
