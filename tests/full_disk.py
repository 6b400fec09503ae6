"""A disk that is full, for as long as a test asks."""

import contextlib
import resource


@contextlib.contextmanager
def no_file_beyond(size):
    """Stands for a full disk: no file of this process grows beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
