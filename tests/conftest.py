"""Eight virtual CPU devices, strict settings, and short compiles for every test."""

import os
import tempfile
from importlib.metadata import version

# Before jax is imported: the flags are read once, when the CPU backend starts.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    # The generated code runs once or a few times: nothing is spent on making it fast.
    + " --xla_backend_optimization_level=0"
    # An unknown flag ends the process, and jax 0.12 has lost this one.
    + (" --xla_cpu_use_fusion_emitters=false" if version("jaxlib") < "0.11" else "")
)

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")

# Many tests build the same program again (a run and its resumption, say). A cache that lives as
# long as the test session compiles each of them once.
_cache = tempfile.TemporaryDirectory(prefix="jaxnets-test-cache-")
jax.config.update("jax_compilation_cache_dir", _cache.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
