"""Read what XLA made of a program, the text of its optimised HLO.

python -m benchmarks.hlo FILE lists the kernels of its loop with the MB that each reads and writes.

A program is a list of computations, and a computation is a list of instructions such as

    %fusion.7 = bf16[32,8]{1,0} fusion(%a, %b), kind=kLoop, calls=%fused_add, metadata={op_name="jit(f)/add"}

This has a name, the type of the result with its layout, an opcode, operands and attributes. A fusion is one kernel, and
the computation that it calls is the code of that kernel.
"""

import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from benchmarks import command_line

# Operations that cost nothing: names for parts of other results, and known values.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"}
FREE |= {"opt-barrier", "iota"}
COLLECTIVES = {"all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast"}
CALLERS = ("fusion", "call", "async-start")  # run the computation that they call, once
INDEXING = ("gather", "dynamic-slice")  # read only a part of their first operand

COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
NAMED = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = ")
ARRAY = re.compile(r"\b(pred|token|bf16|[sufc]\d+\w*)\[([\d,]*)\](?:\{([^}]*)\})?")


@dataclass(frozen=True)
class Array:
    """An array in the type of an instruction."""

    dtype: str
    shape: tuple[int, ...]
    layout: str = ""  # "3,2,1,0:T(8,128)(2,1)S(1)": axes from minor to major, tiles, memory space

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """The bytes of its elements alone."""
        return math.ceil(self.size * bits(self.dtype) / 8)

    @property
    def padded_bytes(self) -> int:
        """The bytes that it occupies: a TPU pads its last axes to whole tiles."""
        order, _, tiles = self.layout.partition(":")
        tile = re.match(r"T\(([\d,]+)\)", tiles)
        if not tile or not self.shape:
            return self.bytes
        rows = [self.shape[int(axis)] for axis in reversed(order.split(","))]
        sides = [int(side) for side in tile[1].split(",")]
        rows = [1] * (len(sides) - len(rows)) + rows
        whole = [-(-rows[-place] // side) * side for place, side in zip(range(len(sides), 0, -1), sides, strict=True)]
        return math.ceil(math.prod(rows[: -len(sides)]) * math.prod(whole) * bits(self.dtype) / 8)

    @property
    def on_chip(self) -> bool:
        """Return whether it stays in on-chip memory, as a TPU's compiler decides; S(0) is HBM."""
        return bool(re.search(r"S\([1-9]", self.layout))


def bits(dtype: str) -> int:
    if dtype in ("pred", "token"):
        return {"pred": 8, "token": 0}[dtype]
    number = re.match(r"[a-z]+(\d+)", dtype)
    return int(number[1]) if number else 0


def arrays(text: str) -> list[Array]:
    """Return the arrays in the text of a type."""
    return [
        Array(dtype, tuple(map(int, filter(None, shape.split(",")))), layout)
        for dtype, shape, layout in ARRAY.findall(text)
    ]


@dataclass
class Instruction:
    """An instruction, with the instructions inside it if it calls a computation."""

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...] = ()  # names of instructions; the number of a parameter, the value of a constant
    attributes: str = ""
    inside: list["Instruction"] = field(default_factory=list)

    @cached_property
    def results(self) -> list[Array]:
        return arrays(self.type)

    @property
    def elements(self) -> int:
        """The size of its first result."""
        return self.results[0].size if self.results else 1

    @property
    def path(self) -> str:
        """The path of names in the traced program, such as jit(step)/jvp(ResNet)/stem_conv/..."""
        return self.attribute(r'op_name="([^"]*)"')

    @property
    def scope(self) -> str:
        """Its path, or else the paths of the instructions inside."""
        return self.path or " ".join(instruction.scope for instruction in self.inside)

    @property
    def target(self) -> str:
        """The function that a custom call calls."""
        return self.attribute(r'custom_call_target="([^"]*)"')

    @property
    def opcodes(self) -> set[str]:
        """Its opcode and those of the instructions inside."""
        return {self.opcode}.union(*(instruction.opcodes for instruction in self.inside))

    @property
    def largest_window(self) -> int:
        """The longest side, in pixels, of the windows of convolutions and reductions."""
        sizes = self.attribute(r"window=\{size=([\dx]+)")
        own = max(map(int, sizes.split("x"))) if sizes else 0
        return max([own, *(instruction.largest_window for instruction in self.inside)])

    def attribute(self, pattern: str) -> str:
        match = re.search(pattern, self.attributes)
        return match[1] if match else ""


@dataclass
class Program:
    """The computations of a program by name, and the name of the one that is executed."""

    computations: dict[str, list[Instruction]]
    entry: str

    @classmethod
    def parse(cls, text: str) -> "Program":
        computations: dict[str, list[Instruction]] = {}
        current: list[Instruction] = []
        entry = ""
        for line in text.splitlines():
            if match := COMPUTATION.match(line):
                current = computations.setdefault(match[2], [])
                entry = match[2] if match[1] else entry
            elif match := NAMED.match(line):
                current.append(instruction(match[1], line[match.end() :]))
        program = cls(computations, entry)
        for one in program.instructions.values():
            if one.opcode in CALLERS:
                one.inside = computations.get(one.attribute(r"(?:calls|to_apply)=%?([\w.\-]+)"), [])
        return program

    @cached_property
    def instructions(self) -> dict[str, Instruction]:
        return {one.name: one for computation in self.computations.values() for one in computation}

    def body(self) -> list[Instruction]:
        """Return the instructions that a loop repeats: those of the largest loop's body, or all without a loop."""
        loops = [one for one in self.instructions.values() if one.opcode == "while"]
        bodies = [self.computations.get(body_of(loop), []) for loop in loops]
        return max(bodies, key=len, default=self.computations[self.entry])

    def kernels(self, computation: list[Instruction]) -> Iterator[Instruction]:
        """Yield what a device executes one after another; kernels of an inner loop once.

        An instruction in two parts, such as copy-start and copy-done, counts as its first part.
        """
        for one in computation:
            if one.opcode == "call":
                yield from self.kernels(one.inside)
            elif one.opcode == "while":
                yield from self.kernels(self.computations.get(body_of(one), []))
            elif one.opcode not in FREE and not one.opcode.endswith("-done"):
                yield one

    def traffic(self, kernel: Instruction) -> list[Array]:
        """Return the arrays that a kernel reads and writes; of one that it only indexes, the part it reads."""
        read = [part for place, name in enumerate(kernel.operands) for part in self._read(kernel, place, name)]
        return [*read, *self.written(kernel)]

    def _read(self, kernel: Instruction, place: int, name: str) -> list[Array]:
        if kernel.opcode in INDEXING and place == 0:
            return kernel.results
        if kernel.opcode == "dynamic-update-slice" and place == 0:
            return []
        if kernel.opcode == "fusion" and (parts := parts_read(kernel.inside, place)) is not None:
            return parts
        return self.instructions[name].results if name in self.instructions else []

    def written(self, kernel: Instruction) -> list[Array]:
        """Return the arrays that a kernel writes."""
        if kernel.opcode.endswith("-start"):  # its own result names its operands again
            return self._done.get(kernel.name, kernel).results
        if kernel.opcode == "dynamic-update-slice":
            return self.instructions[kernel.operands[1]].results
        if kernel.opcode == "fusion" and kernel.inside and kernel.inside[-1].opcode == "dynamic-update-slice":
            updated = {one.name: one for one in kernel.inside}.get(kernel.inside[-1].operands[1])
            return updated.results if updated else kernel.results
        return kernel.results

    @cached_property
    def _done(self) -> dict[str, Instruction]:
        """The second part of each instruction in two parts, by the name of the first."""
        return {one.operands[0]: one for one in self.instructions.values() if one.opcode.endswith("-done")}


def instruction(name: str, text: str) -> Instruction:
    """Return the instruction `name` of the text after the equals sign."""
    end = closing(text) if text.startswith("(") else text.index(" ")
    opcode, _, rest = text[end:].strip().partition("(")
    given, attributes = rest[: closing("(" + rest) - 2], rest[closing("(" + rest) - 1 :]
    operands = tuple(re.findall(r"%([\w.\-]+)", given)) or (given,)
    return Instruction(name, text[:end], opcode, operands, attributes)


def closing(text: str) -> int:
    """Return the place after the parenthesis that closes the first one."""
    depth = 0
    for match in re.finditer(r"[()]", text):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.end()
    return len(text)


def body_of(loop: Instruction) -> str:
    return loop.attribute(r"body=%?([\w.\-]+)")


def parts_read(inside: list[Instruction], place: int) -> list[Array] | None:
    """Return what a fusion reads of its operand number `place` if it only indexes it, None if it reads all of it."""
    names = {one.name for one in inside if one.opcode == "parameter" and one.operands == (str(place),)}
    names |= {one.name for one in inside if one.opcode == "bitcast" and names & set(one.operands)}
    users = [one for one in inside if names & set(one.operands) and one.name not in names]
    read: list[Array] = []
    for user in users:
        if user.operands[0] not in names or names & set(user.operands[1:]):
            return None
        if user.opcode in INDEXING:
            read += user.results
        elif user.opcode != "dynamic-update-slice":
            return None
    return read if users else None


def main() -> None:
    parser = command_line.parser(__doc__)
    parser.add_argument("file", type=Path, metavar="FILE")
    program = Program.parse(parser.parse_args().file.read_text())
    for kernel in program.kernels(program.body()):
        megabytes = sum(array.bytes for array in program.traffic(kernel)) / 1e6
        first = ARRAY.search(kernel.type)
        result = first[0].partition("{")[0] if first else ""
        print(f"{megabytes:9.3f} {kernel.opcode:12} {kernel.name:44} {result:28} {kernel.scope[:120]}")


if __name__ == "__main__":
    sys.exit(command_line.run(main))
