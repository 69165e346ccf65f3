"""Unicorn's s390x CPU through its C interface: registers, run and stop, hooks, translations (docs/embedded-engine.md).

The Python bindings wrap every call and callback; a guest boot makes millions of them, so the few that count are called
directly. What Unicorn does not offer as a register — prefix, program and SVC interruption codes — is read from
the saved context, whose offsets are found by experiment when the CPU is made.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from unicorn import (
    UC_ARCH_S390X,
    UC_ERR_FETCH_PROT,
    UC_HOOK_CODE,
    UC_HOOK_EDGE_GENERATED,
    UC_HOOK_INTR,
    UC_HOOK_MEM_FETCH_PROT,
    UC_MODE_BIG_ENDIAN,
    UC_PROT_ALL,
    UC_PROT_READ,
    UC_PROT_WRITE,
    Uc,
)
from unicorn import s390x_const as reg
from unicorn.unicorn_py3.unicorn import uclib

from sipl.errors import SiplError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sipl.machine.memory import GuestMemory

R0: Final = reg.UC_S390X_REG_R0
CR0: Final = reg.UC_S390X_REG_CR0
A0: Final = reg.UC_S390X_REG_A0
F0: Final = reg.UC_S390X_REG_F0
PC: Final = reg.UC_S390X_REG_PC
PSWM: Final = reg.UC_S390X_REG_PSWM

FETCH: Final = UC_PROT_READ
STORE: Final = UC_PROT_WRITE
INTERRUPTION_SVC: Final = 2
INTERRUPTION_PROGRAM: Final = 3

_HANDLE = ctypes.c_void_p
_CODE_CALLBACK = ctypes.CFUNCTYPE(None, _HANDLE, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p)
_INTR_CALLBACK = ctypes.CFUNCTYPE(None, _HANDLE, ctypes.c_uint32, ctypes.c_void_p)
_FETCH_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_bool, _HANDLE, ctypes.c_int, ctypes.c_uint64, ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
)
# For what is never asked: memory that has such a hook may be executed.
_NEVER_CALLED = _FETCH_CALLBACK(lambda *_: False)


class _Block(ctypes.Structure):
    _fields_ = (("pc", ctypes.c_uint64), ("icount", ctypes.c_uint16), ("size", ctypes.c_uint16))


_EDGE_CALLBACK = ctypes.CFUNCTYPE(None, _HANDLE, ctypes.POINTER(_Block), ctypes.POINTER(_Block), ctypes.c_void_p)

_CTL_FLUSH_TB: Final = 10
_CTL_REMOVE_CACHE: Final = 9
_CTL_FLUSH_TLB: Final = 11
_IO_WRITE: Final = 1


class UnicornError(SiplError):
    """Unicorn refused a call; that is an error of the engine, never of the guest."""


def _function(name: str, *types: type[Any]) -> Callable[..., int]:
    # A pointer of its own, so that the argument types of the bindings stay as they are.
    prototype = ctypes.CFUNCTYPE(ctypes.c_int, *types)
    return prototype((name, uclib))


_reg_read = _function("uc_reg_read", _HANDLE, ctypes.c_int, ctypes.c_void_p)
_reg_write = _function("uc_reg_write", _HANDLE, ctypes.c_int, ctypes.c_void_p)
_emu_start = _function("uc_emu_start", _HANDLE, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_size_t)
_emu_stop = _function("uc_emu_stop", _HANDLE)
_context_save = _function("uc_context_save", _HANDLE, ctypes.c_void_p)
_vmem_translate = _function("uc_vmem_translate", _HANDLE, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p)
_mem_protect = _function("uc_mem_protect", _HANDLE, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint32)
_hook_add = uclib.uc_hook_add
_ctl = uclib.uc_ctl

# Experiments that end in a known interruption: instruction, general register 15, code.
_PROBES: Final = (
    (b"\x00\x00", 0, 0x01),  # no operation code
    (b"\xe3\x10\xf0\x00\x00\x04", 0x7F000000, 0x05),  # LG of storage that is not there
    (b"\x1d\x02", 0, 0x09),  # DR by zero
)
_SVC_PROBES: Final = ((b"\x0a\x05", 5), (b"\x0a\xa7", 0xA7))
# Unicorn looks for translated code at every store into memory that may be executed, and only there. So memory is given
# to it in chunks, each of which may be executed from its first fetch on. More of them than this are slow to set up.
_CHUNKS: Final = 256
_SMALLEST_CHUNK: Final = 1 << 20
_PROBE_SIZE: Final = 1 << 20
_PAIR: Final = struct.Struct("=II")
_PROBE_ADDRESS: Final = 0x1000
_PROBE_MASK: Final = 0x0000000180000000


class Offsets:
    """Where the saved context of this library holds codes and lengths, 32 bits each, that no register offers."""

    __slots__ = ("_program", "_svc", "size")

    def __init__(self, program: int, svc: int, size: int) -> None:
        self._program = program
        self._svc = svc
        self.size = size

    def program(self, context: bytes) -> tuple[int, int]:
        """Code of the last program interruption and length of its instruction."""
        return self._pair(context, self._program)

    def svc(self, context: bytes) -> tuple[int, int]:
        """Number of the last supervisor call and length of its instruction."""
        return self._pair(context, self._svc)

    @staticmethod
    def _pair(context: bytes, offset: int) -> tuple[int, int]:
        code, length = _PAIR.unpack_from(context, offset)
        return code, length


class UnicornCpu:
    """One CPU over guest memory; no state of the architecture is kept outside of Unicorn but the prefix."""

    def __init__(self, memory: GuestMemory) -> None:
        self.memory = memory
        self._buffer = (ctypes.c_char * memory.size).from_buffer(memory.view.obj)
        self._uc = Uc(UC_ARCH_S390X, UC_MODE_BIG_ENDIAN)
        self._uc.ctl_set_cpu_model(reg.UC_CPU_S390X_MAX)
        self._handle = self._uc._uch
        self._chunk = max(_SMALLEST_CHUNK, memory.size // _CHUNKS)
        self._executable = bytearray(-(-memory.size // self._chunk))
        for at in range(0, memory.size, self._chunk):
            size = min(self._chunk, memory.size - at)
            self._uc.mem_map_ptr(at, size, UC_PROT_READ | UC_PROT_WRITE, ctypes.addressof(self._buffer) + at)
        self._value = ctypes.c_uint64()
        self._at = ctypes.addressof(self._value)
        self._callbacks: list[object] = []
        self._context = self._uc.context_save()
        self.offsets = _find_offsets()
        self._context_bytes = (ctypes.c_char * self.offsets.size).from_address(self._context._context.value)

    def close(self) -> None:
        """Give back what the library took, tens of MiB; the CPU is of no use any more.

        Its hooks refer to it and it to them, so that without this it would stay until somebody looks for such circles.
        """
        self._callbacks.clear()
        del self._context, self._uc, self._buffer

    def read(self, register: int) -> int:
        """A register, as an unsigned number."""
        _reg_read(self._handle, register, self._at)
        return self._value.value

    def write(self, register: int, value: int) -> None:
        """Set a register; the program-status word's mask sets the condition code, too."""
        self._value.value = value
        _reg_write(self._handle, register, self._at)

    def context(self) -> bytes:
        """The saved context of this moment."""
        _context_save(self._handle, self._context._context)
        return self._context_bytes.raw

    def run(self, address: int) -> bool:
        """Run from a virtual address until a hook stops it; False: memory was to be executed that may not be yet."""
        error = _emu_start(self._handle, address, 0, 0, 0)
        if error == UC_ERR_FETCH_PROT:
            return False
        if error:
            raise UnicornError("embedded CPU", f"it stopped with error {error}", "this is a bug of sipl")
        return True

    def allow_code(self, absolute: int) -> bool:
        """Let memory be executed, from now on; whether it could not be before."""
        chunk = absolute // self._chunk
        if not 0 <= absolute < self.memory.size or self._executable[chunk]:
            return False
        at = chunk * self._chunk
        error = _mem_protect(self._handle, at, min(self._chunk, self.memory.size - at), UC_PROT_ALL)
        if error:
            raise UnicornError("embedded CPU", f"memory was refused (error {error})", "this is a bug of sipl")
        self._executable[chunk] = 1
        # From now on no store here may be fast, not even through an address at which nothing can be executed: the code
        # may be executed through another one. Unicorn keeps stores slow where there is a hook of this kind.
        self._add_hook(UC_HOOK_MEM_FETCH_PROT, _NEVER_CALLED, at, at + self._chunk - 1)
        self.flush_tlb()
        return True

    def stop(self) -> None:
        """Leave `run` before the next block; to be called from hooks only."""
        _emu_stop(self._handle)

    def on_code(self, address: int, callback: object) -> None:
        """Call back before the instruction at a virtual address."""
        self._add_hook(UC_HOOK_CODE, callback, address, address)

    def code_callback(self, function: Callable[[int], None]) -> object:
        """Wrap a function of the address for `on_code`; one wrapper serves any number of addresses."""
        return _CODE_CALLBACK(lambda _, address, __, ___: function(address))

    def on_interruption(self, function: Callable[[int], None]) -> None:
        """Call back at program interruptions (3) and SVCs (2)."""
        self._add_hook(UC_HOOK_INTR, _INTR_CALLBACK(lambda _, number, __: function(number)))

    def on_new_block(self, function: Callable[[int, int], None]) -> None:
        """Call back when a block was translated: its virtual address and its length in bytes."""
        self._add_hook(
            UC_HOOK_EDGE_GENERATED,
            _EDGE_CALLBACK(lambda _, block, __, ___: function(block.contents.pc, block.contents.size)),
        )

    def _add_hook(self, kind: int, callback: object, begin: int = 1, end: int = 0) -> None:
        self._callbacks.append(callback)
        hook = ctypes.c_size_t()
        error = _hook_add(
            self._handle, ctypes.byref(hook), kind, callback, None, ctypes.c_uint64(begin), ctypes.c_uint64(end)
        )
        if error:
            raise UnicornError("embedded CPU", f"a hook was refused (error {error})", "this is a bug of sipl")

    def translate(self, address: int, access: int = FETCH) -> int | None:
        """Absolute address of a virtual one for a kind of access, None where the guest's tables give none."""
        if _vmem_translate(self._handle, address, access, self._at):
            return None
        return self._value.value

    def forget_code(self, begin: int, end: int) -> None:
        """Drop translations of virtual addresses."""
        _ctl(self._handle, _control(_CTL_REMOVE_CACHE, 2), ctypes.c_uint64(begin), ctypes.c_uint64(end))

    def flush_tlb(self) -> None:
        """Forget every address translation."""
        _ctl(self._handle, _control(_CTL_FLUSH_TLB, 0))


def _control(kind: int, arguments: int) -> int:
    return kind | arguments << 26 | _IO_WRITE << 30


@cache
def _find_offsets() -> Offsets:
    """Run instructions that end in known interruptions, and see where their codes land in the saved context."""
    program = [(_probe(code, register), number) for code, register, number in _PROBES]
    svc = [(_probe(code, 0), number) for code, number in _SVC_PROBES]
    return Offsets(_only_place(program), _only_place(svc), len(program[0][0]))


def _only_place(seen: list[tuple[bytes, int]]) -> int:
    """The one offset at which every context holds its own code, with the length of the instruction behind it."""
    size = min(len(context) for context, _ in seen)
    wanted = [number.to_bytes(4, sys.byteorder) for _, number in seen]
    places = [
        offset
        for offset in range(0, size - 8, 4)
        if all(context[offset : offset + 4] == number for (context, _), number in zip(seen, wanted, strict=True))
    ]
    if len(places) != 1:
        raise UnicornError(
            "embedded CPU", "this version of Unicorn keeps interruption codes elsewhere", "install unicorn 2.1.4"
        )
    return places[0]


def _probe(code: bytes, register_15: int) -> bytes:
    """The saved context after an instruction has ended in an interruption."""
    uc = Uc(UC_ARCH_S390X, UC_MODE_BIG_ENDIAN)
    uc.mem_map(0, _PROBE_SIZE, UC_PROT_ALL)
    uc.mem_write(_PROBE_ADDRESS, code)
    uc.hook_add(UC_HOOK_INTR, lambda engine, _, __: engine.emu_stop())
    uc.reg_write(PSWM, _PROBE_MASK)
    uc.reg_write(R0 + 15, register_15)
    uc.emu_start(_PROBE_ADDRESS, 0)
    context = uc.context_save()
    return ctypes.string_at(context._context, uclib.uc_context_size(uc._uch))
