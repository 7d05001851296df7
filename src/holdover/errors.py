# SPDX-License-Identifier: Apache-2.0
"""Everything that can go wrong, as one tree. Each class carries its exit code.

HoldoverError
├── UsageError              the command line or a hook's input makes no sense (2)
├── MalformedError          a file or text is not what its format promises
│   └── ElfError            an ELF file is truncated, inconsistent or of another kind
│       └── OtherMachineError   it is for 32-bit or big-endian machines, which are not known here
├── ProcessError            one process; its pid is in the message
│   ├── VanishedError       it ended, or its pid now belongs to something else
│   ├── UnreadableError     the kernel does not let us look (3)
│   ├── SilentError         it keeps who looks waiting (3)
│   └── UnsupportedError    its layout gives no safe way to do this
├── RefusedError            a safety rule said no; nothing was touched
├── StoreError              the store cannot be used
│   ├── UntrustedError      somebody but root can write there
│   ├── BusyError           another holdover holds the lock
│   └── DamagedError        what is there is not what was put there
├── CommandError            a program that was run failed
└── MissingError            files are needed that cannot be had here

BudgetError                 the time that was given is used up: not one process's fault, so nobody
                            but the hook that set the time may catch it
"""

TYPE_CHECKING = False  # typing takes two milliseconds of every transaction
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "HoldoverError",
    "UsageError",
    "MalformedError",
    "ElfError",
    "OtherMachineError",
    "ProcessError",
    "VanishedError",
    "UnreadableError",
    "SilentError",
    "UnsupportedError",
    "RefusedError",
    "StoreError",
    "UntrustedError",
    "BusyError",
    "DamagedError",
    "CommandError",
    "MissingError",
    "BudgetError",
]


class HoldoverError(Exception):
    """What happened (`message`), and what the operator can do about it (`hint`)."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class UsageError(HoldoverError):
    exit_code = 2


class MalformedError(HoldoverError):
    pass


class ElfError(MalformedError):
    pass


class OtherMachineError(ElfError):
    pass


class ProcessError(HoldoverError):
    pass


class VanishedError(ProcessError):
    pass


class UnreadableError(ProcessError):
    exit_code = 3


class SilentError(ProcessError):
    """`left_behind` is the pid of our child that waits for the answer, 0 if none does."""

    exit_code = 3

    def __init__(self, message: str, left_behind: int = 0) -> None:
        super().__init__(message)
        self.left_behind = left_behind


class UnsupportedError(ProcessError):
    pass


class RefusedError(HoldoverError):
    pass


class StoreError(HoldoverError):
    pass


class UntrustedError(StoreError):
    pass


class BusyError(StoreError):
    pass


class DamagedError(StoreError):
    pass


class CommandError(HoldoverError):
    pass


class MissingError(HoldoverError):
    """`files` are `packages.fetch.PackageFile`s: the exact list, for another machine to fetch.

    `notes` say what was there and refused.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        files: "tuple[Any, ...]" = (),
        notes: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, hint=hint)
        self.files = files
        self.notes = notes


class BudgetError(Exception):
    pass
