# SPDX-License-Identifier: Apache-2.0
"""Deliver by variable: continue the name of the module directory in a live process, data only.

The process is never stopped and nothing is called in it. What a reader can see in between:

- of an array, first all is written that lies behind the end of the old name, where nobody reads;
  then one aligned store of eight bytes takes that end away. The old name or the new one is read.
- when an array leads to a view already, the names differ in their last bytes. They are written at
  once when every thread was just seen to sleep in the kernel, or not at all.
- taken back, an array is cut by one store. Who has measured the longer name and not yet copied it
  would copy that end too: so this, too, is done when every thread was just seen to sleep.
- of a pointer, the new name is written where nothing looks, and one store publishes it, or takes it
  back.
"""

import os
from pathlib import Path

from holdover.elsewhere import wait_until_asleep
from holdover.errors import RefusedError, UnsupportedError
from holdover.memory import Memory
from holdover.model import Process
from holdover.pointers import publish, restore
from holdover.procfs import ProcFs, file_id
from holdover.programs import Variable
from holdover.sameness import memory_of
from holdover.variables import Name, continued, locate, read_name

__all__ = ["deliver", "release"]

_WORD = 8  # bytes; stored at once


def deliver(proc: ProcFs, process: Process, variable: Variable, view: Path) -> None:
    """Make the name lead to `view`.

    Raises `VanishedError` if it is no longer that process, `UnsupportedError` if its variable is
    not as it was defined or has no room, `RefusedError` if the write cannot be done safely now,
    `MalformedError` if the name makes no sense, `UnreadableError` if its memory cannot be opened or
    written. Nothing is half done: the one store that publishes comes last.
    """
    pid = process.id.pid
    with memory_of(proc, process) as memory:
        address, name = _find(proc, pid, memory, variable)
        own = proc.at(pid, f"root{name.own}")
        if not os.path.isdir(own):  # noqa: PTH112 - it may be no name at all
            raise RefusedError(f"process {pid}: {name.own} is no directory (any more)")
        text = continued(name, own, view)
        if text == name.text:
            return
        _check_way(proc, pid, text, view)
        if len(text) >= variable.size and not variable.pointer:
            raise UnsupportedError(
                f"process {pid}: no room in {variable.symbol} for a name of {len(text)} bytes"
            )
        if variable.pointer:
            publish(proc, pid, memory, address, text)
        elif name.led_to is None:
            _continue(memory, address, variable, name, text)
        else:
            _exchange(proc, memory, address, variable, name, text)
        _read_back(memory, address, variable, text)


def release(proc: ProcFs, process: Process, variable: Variable) -> None:
    """Make the name the program's own again; raises as `deliver`."""
    with memory_of(proc, process) as memory:
        address, name = _find(proc, process.id.pid, memory, variable)
        if name.led_to is None:
            return
        own = name.before
        if variable.pointer:
            restore(proc, process.id.pid, memory, address)
        else:
            wait_until_asleep(proc, process.id.pid)
            _store(memory, address, variable, name, own, len(own))
        _read_back(memory, address, variable, own)


def _check_way(proc: ProcFs, pid: int, text: bytes, view: Path) -> None:
    """Before anything is written: a name that leads nowhere is worse than the old one."""
    there, wanted = (file_id(proc.at(pid, f"root{path}")) for path in (os.fsdecode(text), view))
    if there is None or there != wanted:
        raise RefusedError(f"process {pid}: {view} cannot be reached by {os.fsdecode(text)}")


def _find(proc: ProcFs, pid: int, memory: Memory, variable: Variable) -> tuple[int, Name]:
    address = locate(proc, pid, proc.maps(pid), variable.symbol, variable.size)
    return address, _read(memory, address, variable)


def _read(memory: Memory, address: int, variable: Variable) -> Name:
    where = (address, variable.size, variable.value, variable.pointer)
    return memory.ask(read_name, *where)


def _continue(memory: Memory, address: int, variable: Variable, name: Name, text: bytes) -> None:
    """Behind the word that holds the end of the old name first, then that word."""
    behind = _word_at(memory, address, variable, len(name.text)) + _WORD
    if behind - address <= len(text):
        memory.write(behind, text[behind - address :] + b"\0")
    _store(memory, address, variable, name, text, len(name.text))


def _store(
    memory: Memory, address: int, variable: Variable, name: Name, text: bytes, end: int
) -> None:
    """The one word in which both names differ, or all of the rest lies behind an end."""
    word = _word_at(memory, address, variable, end)
    there = memory.read(word, _WORD)
    new = (text + b"\0")[word - address :][:_WORD]
    new += there[len(new) :]
    _check_unchanged(memory, address, variable, name)
    memory.write(word, new)  # aligned: at once


def _check_unchanged(memory: Memory, address: int, variable: Variable, name: Name) -> None:
    """What it has put there itself meanwhile must not be cut, nor continued by half of a way."""
    if _read(memory, address, variable) != name:
        raise RefusedError(
            f"process {memory.pid} changed {variable.symbol} itself at the same moment",
            hint="try again",
        )


def _word_at(memory: Memory, address: int, variable: Variable, end: int) -> int:
    """Address of the aligned word that holds byte `end` of the variable; all of it is in there."""
    word = (address + end) // _WORD * _WORD
    if word < address or word + _WORD > address + variable.size:
        raise UnsupportedError(f"process {memory.pid}: {variable.symbol} is not aligned")
    return word


def _exchange(
    proc: ProcFs, memory: Memory, address: int, variable: Variable, name: Name, text: bytes
) -> None:
    """Only what is different is written, the end included."""
    same = len(os.path.commonprefix([name.text, text]))
    wait_until_asleep(proc, memory.pid)
    _check_unchanged(memory, address, variable, name)
    memory.write(address + same, text[same:] + b"\0")


def _read_back(memory: Memory, address: int, variable: Variable, text: bytes) -> None:
    if _read(memory, address, variable).text != text:
        raise RefusedError(
            f"process {memory.pid} set {variable.symbol} itself at the same moment",
            hint="try again",
        )
