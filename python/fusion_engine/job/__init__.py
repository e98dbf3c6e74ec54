"""A run of ``embed`` over many files, of which nothing is lost, however it ends.

Rows are put on disk as they come, in parts beside the output, and the output is made of them at the
end. The same call again goes on from the parts that it finds.
"""

from .job import Completed, Job
from .opening import open_job

__all__ = ["Completed", "Job", "open_job"]
