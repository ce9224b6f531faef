"""Every error a user can cause, in one tree.

    DistillerError                exit code 1   caught by the command line and the UI, shown as words
    ├── DataError                 exit code 3   a conversation file: file, line, reason
    ├── JobError                  exit code 4   a job file: key, value, what is allowed
    ├── ModelError                exit code 5   a model name or folder that cannot be opened
    │   └── ExportError                         ... that has no place in the format that was asked for
    ├── RequestError              exit code 6   a request that failed for good
    │   └── TransientRequestError               ... that is worth trying again (429, 5xx, dropped)
    ├── TrainingError             exit code 7   empty masks, non-finite loss, mismatched vocabularies
    ├── RunError                  exit code 8   a run that is unknown, unfinished or in use
    └── VoteError                 exit code 9   a vote that cannot be taken; a votes database that cannot be used

A message names the value, the limit and what to do. Anything outside this tree is a bug, and only a
bug shows a traceback. Exit code 2 is a wrong command line.
"""

from __future__ import annotations


class DistillerError(Exception):
    exit_code = 1


class DataError(DistillerError):
    exit_code = 3


class JobError(DistillerError):
    exit_code = 4


class ModelError(DistillerError):
    exit_code = 5


class ExportError(ModelError):
    """An architecture or a tokenizer that the format does not know."""


class RequestError(DistillerError):
    exit_code = 6


class RefusedRequestError(RequestError):
    """This one request is not answered, whoever asks again; others may be."""


class TransientRequestError(RequestError):
    """Worth another try. `retry_after_s` is the server's own wish, in seconds, where it gave one."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TrainingError(DistillerError):
    exit_code = 7


class RunError(DistillerError):
    exit_code = 8


class VoteError(DistillerError):
    exit_code = 9
