"""Reading a compiled program: what it runs how often, from XLA's text of it (HLO).

XLA's own cost analysis counts the body of a loop once. Here all is counted as often as it is run.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

BITS = {'pred': 8, 's4': 4, 'u4': 4, 's2': 2, 'u2': 2, 'bf16': 16, 'c64': 64, 'c128': 128}
COLLECTIVES = (
    'all-gather',
    'all-reduce',
    'reduce-scatter',
    'all-to-all',
    'ragged-all-to-all',
    'collective-permute',
    'collective-broadcast',
)
# What an instruction names that is run as part of a schedule, and what is part of the instruction itself.
_SCHEDULED = ('body', 'condition', 'branch_computations', 'true_computation', 'false_computation')
_NAME = r'%?([\w.\-]+)'
_SHAPE = re.compile(r'(\w+)\[([\d,]*)\](\{[^{}]*\})?')
_INSTRUCTION = re.compile(rf'\s*(ROOT )?{_NAME} = ')
_COMPUTATION = re.compile(rf'(ENTRY )?{_NAME} (\(.*\) -> .*)?\{{$')
_CALLED = re.compile(rf'\b({"|".join(_SCHEDULED)}|calls|to_apply)=(\{{[^{{}}]*\}}|{_NAME})')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_NO_ESTIMATE = 2**60  # Where the compiler cannot tell, it writes the largest integer.
_CUBLAS = re.compile(r'custom_call_target="__cublas\$')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


class Shape(NamedTuple):
    """One array: its element type, dimensions and layout as XLA writes them."""

    dtype: str
    dims: tuple[int, ...]
    layout: str

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Bytes without padding; tokens have none."""
        digits = re.search(r'\d+', self.dtype)
        bits = BITS.get(self.dtype) or (int(digits.group()) if digits else 0)
        return self.size * bits // 8

    @property
    def on_chip(self) -> bool:
        """Whether it is in a memory other than the HBM."""
        return 'S(' in self.layout


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of the program.

    Attributes:
        name: unique in its computation.
        opcode: as in HLO.
        shapes: of its result; several where that is a tuple.
        operands: names of its operands.
        attributes: the rest of the line.
        is_root: whether its result is that of its computation.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    attributes: str
    is_root: bool


class Run(NamedTuple):
    """An instruction where it stands, how often it runs, and whether as a step of the schedule."""

    instruction: Instruction
    computation: str
    times: int
    scheduled: bool


class Program:
    """A compiled program.

    Attributes:
        computations: name -> instructions by name.
        entry: the name of the one that is run.
        unknown_loops: loops whose number of iterations is not known, which count once.
    """

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry = ''
        instructions = {}
        for line in text.splitlines():
            if found := _COMPUTATION.match(line):
                instructions = self.computations[found[2]] = {}
                if found[1]:
                    self.entry = found[2]
            elif found := _INSTRUCTION.match(line):
                instruction = _instruction(found, line)
                instructions[instruction.name] = instruction
        self.unknown_loops = 0
        self._runs = list(self._walk())

    def runs(self) -> Sequence[Run]:
        """All instructions that are run, those inside of fusions too."""
        return self._runs

    def operand_shapes(self, run: Run) -> list[Shape]:
        """Shapes of all operands of an instruction."""
        there = self.computations[run.computation]
        return [
            shape
            for name in run.instruction.operands
            if name in there
            for shape in there[name].shapes
        ]

    def _walk(self) -> Iterator[Run]:
        times = collections.Counter({self.entry: 1})
        scheduled = {self.entry}
        for name in self._callers_first():
            for instruction in self.computations[name].values():
                yield Run(instruction, name, times[name], name in scheduled)
                if instruction.opcode in ('async-update', 'async-done'):
                    continue  # They name again what their async-start runs.
                trips = self._trips(instruction) if instruction.opcode == 'while' else 1
                for kind, names in _called(instruction):
                    for called in names:
                        times[called] += times[name] * trips
                        if name in scheduled and (
                            kind in _SCHEDULED or instruction.opcode in ('call', 'async-start')
                        ):
                            scheduled.add(called)

    def _callers_first(self) -> list[str]:
        done: dict[str, None] = {}

        def visit(name):
            if name in done:
                return
            for instruction in self.computations[name].values():
                for _, called in _called(instruction):
                    for inner in called:
                        visit(inner)
            done[name] = None

        visit(self.entry)
        return list(reversed(done))

    def _trips(self, loop: Instruction) -> int:
        if known := _TRIPS.search(loop.attributes):
            return int(known[1])
        condition = next((n for kind, n in _called(loop) if kind == 'condition'), ())
        limits = [
            int(found[1])
            for name in condition
            for inner in self.computations[name].values()
            if inner.opcode == 'constant' and (found := re.match(r'\((\d+)\)', inner.attributes))
        ]
        if len(limits) == 1:  # jax counts from 0 by 1.
            return limits[0]
        self.unknown_loops += 1
        return 1


def _instruction(found: re.Match, line: str) -> Instruction:
    start = found.end()
    end = _closing(line, start) + 1 if line[start] == '(' else line.index(' ', start)
    shapes = tuple(
        Shape(dtype, tuple(int(n) for n in dims.split(',') if n), layout or '')
        for dtype, dims, layout in _SHAPE.findall(line[start:end])
    )
    opening = line.index('(', end)
    closing = _closing(line, opening)
    opcode = line[end:opening].strip()
    inside = line[opening + 1 : closing]
    operands = tuple(re.findall(r'%([\w.\-]+)', inside))
    if not operands and opcode not in ('constant', 'parameter'):
        operands = tuple(part.split()[-1] for part in inside.split(',') if part.strip())
    attributes = line[opening:] if opcode in ('constant', 'parameter') else line[closing + 1 :]
    return Instruction(found[2], opcode, shapes, operands, attributes, bool(found[1]))


def _closing(line: str, opening: int) -> int:
    """Where the parenthesis that opens at `opening` is closed."""
    depth = 0
    for i in range(opening, len(line)):
        depth += (line[i] == '(') - (line[i] == ')')
        if not depth:
            return i
    return len(line)


def _called(instruction: Instruction) -> list[tuple[str, list[str]]]:
    return [
        (kind, re.findall(_NAME, value.strip('{}')))
        for kind, value, _ in _CALLED.findall(instruction.attributes)
    ]


class Collective(NamedTuple):
    """Collectives of a kind, or one of them as often as it is run.

    Attributes:
        count: how often one is run in a step.
        bytes: of the larger of operands and results on one chip, over all runs.
        waited: those bytes of it for which the schedule waits: all but asynchronous collectives'.
        shapes: results, of a single one.
    """

    count: int
    bytes: int
    waited: int = 0
    shapes: tuple[Shape, ...] = ()


def each_collective(program: Program) -> Iterator[tuple[str, Collective]]:
    """The kind of each collective, and what it costs in all of its runs.

    The compiler for TPUs writes an asynchronous one into several fusions, from its start to its end,
    under the number of one channel; it counts once. And it writes a reduce-scatter as a fusion of
    that name around an all-reduce.
    """
    seen = set()
    for run in program.runs():
        instruction = run.instruction
        kind = instruction.opcode.removesuffix('-start')
        if kind not in COLLECTIVES:
            continue
        waited = run.scheduled and kind == instruction.opcode
        if run.computation.startswith('all-reduce-scatter'):
            kind, waited = 'reduce-scatter', True
        elif not run.scheduled:
            channel = re.search(r'channel_id=(\d+)', instruction.attributes)
            if channel and (kind, channel[1]) in seen:
                continue
            seen.add((kind, channel and channel[1]))
        results = [shape for shape in instruction.shapes if shape.dims or shape.dtype != 'u32']
        operands = program.operand_shapes(run)
        if instruction.opcode.endswith('-start') and kind != 'all-reduce':
            results = results[len(operands) :]  # The tuple begins with the operands.
        size = run.times * max(sum(s.bytes for s in operands), sum(s.bytes for s in results))
        yield kind, Collective(run.times, size, size * waited, tuple(results))


def collectives(program: Program) -> Mapping[str, Collective]:
    """Collectives by kind."""
    totals: dict[str, Collective] = {}
    for kind, one in each_collective(program):
        so_far = totals.get(kind, Collective(0, 0))
        totals[kind] = Collective(*(a + b for a, b in zip(so_far[:3], one[:3], strict=True)))
    return dict(sorted(totals.items()))


def cycles(program: Program) -> int | None:
    """The compiler's estimates of all scheduled instructions, added up; None where it has none."""
    found = [
        (run.times, int(estimate[1]))
        for run in program.runs()
        if run.scheduled and (estimate := _CYCLES.search(run.instruction.attributes))
    ]
    if not found or max(each for _, each in found) > _NO_ESTIMATE:
        return None
    return sum(times * each for times, each in found)


def flops(program: Program) -> int:
    """FLOPs of one device's matrix products and convolutions; a multiply-add is two."""
    total = 0
    for run in program.runs():
        if run.instruction.opcode == 'dot':
            total += 2 * run.times * _dot(run.instruction, program.operand_shapes(run))
        elif run.instruction.opcode == 'convolution':
            total += 2 * run.times * _convolution(run.instruction, program.operand_shapes(run))
        elif _CUBLAS.search(run.instruction.attributes):
            total += 2 * run.times * _cublas(run.instruction, program.operand_shapes(run))
    return total


def _dot(dot: Instruction, operands: Sequence[Shape]) -> int:
    contracted = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', dot.attributes)
    axes = [int(axis) for axis in contracted[1].split(',') if axis] if contracted else []
    return dot.shapes[0].size * math.prod(operands[0].dims[axis] for axis in axes)


def _cublas(call: Instruction, operands: Sequence[Shape]) -> int:
    """Multiply-adds of what a program for NVIDIA's GPUs leaves to their library."""
    contracted = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', call.attributes)
    axes = map(int, re.findall(r'\d+', contracted[1]))
    return call.shapes[0].size * math.prod(operands[0].dims[axis] for axis in axes)


def _convolution(convolution: Instruction, operands: Sequence[Shape]) -> int:
    """Multiply-adds without those of padding and of holes; TPU's compiler writes batched products so."""
    lhs_labels, rhs_labels, out_labels = re.search(
        r'dim_labels=(\w+)_(\w+)->(\w+)', convolution.attributes
    ).groups()
    lhs, rhs = operands[:2]
    out = convolution.shapes[0]
    window = dict(re.findall(r'(\w+)=([\dx_\-]+)', _window(convolution.attributes)))
    total = out.dims[out_labels.index('b')] * out.dims[out_labels.index('f')]
    total *= rhs.dims[rhs_labels.index('i')]
    for i in range(len(lhs_labels) - 2):
        axis = str(i)

        def field(name, default, i=i):
            return window[name].split('x')[i] if name in window else default

        low = int(field('pad', '0_0').split('_')[0])
        stride, dilation = int(field('stride', '1')), int(field('rhs_dilate', '1'))
        holes = int(field('lhs_dilate', '1'))
        outputs = np.arange(out.dims[out_labels.index(axis)]) * stride - low
        taps = np.arange(rhs.dims[rhs_labels.index(axis)]) * dilation
        places = outputs[:, None] + taps
        size = (lhs.dims[lhs_labels.index(axis)] - 1) * holes + 1
        total *= int(np.sum((places >= 0) & (places < size) & (places % holes == 0)))
    return total


def _window(attributes: str) -> str:
    found = re.search(r'window=\{([^}]*)\}', attributes)
    return found[1] if found else ''


# What moves nothing by itself, or is counted where it is run.
_FREE = frozenset(
    {
        'parameter',
        'constant',
        'iota',
        'partition-id',
        'replica-id',
        'after-all',
        'opt-barrier',
        'tuple',
        'get-tuple-element',
        'bitcast',
        'while',
        'conditional',
        'call',
    }
)


def bytes_accessed(program: Program) -> int:
    """Bytes of HBM that scheduled instructions read and write, as if each read its operands once.

    Of an array that a fusion only slices, and of one that it updates in place, the slice counts.
    """
    total = 0
    for run in program.runs():
        opcode = run.instruction.opcode
        if not run.scheduled or opcode in _FREE or opcode.endswith('-done'):
            continue
        total += run.times * _accessed(program, run)
    return total


def _accessed(program: Program, run: Run) -> int:
    instruction = run.instruction
    operands = program.operand_shapes(run)
    written = sum(shape.bytes for shape in instruction.shapes if not shape.on_chip)
    if instruction.opcode.endswith('-start'):
        return sum(shape.bytes for shape in instruction.shapes if not shape.on_chip)
    if instruction.opcode == 'dynamic-slice':
        return 2 * written
    if instruction.opcode == 'dynamic-update-slice':
        return 2 * operands[1].bytes
    fused = [names for kind, names in _called(instruction) if kind == 'calls']
    if instruction.opcode != 'fusion' or not fused:
        return written + sum(shape.bytes for shape in operands if not shape.on_chip)
    inner = program.computations[fused[0][0]]
    users: dict[str, list[Instruction]] = collections.defaultdict(list)
    for other in inner.values():
        for name in other.operands:
            users[name].append(other)
        if other.is_root and other.opcode == 'dynamic-update-slice':
            written = inner[other.operands[1]].shapes[0].bytes
    read = 0
    for parameter in inner.values():
        if parameter.opcode != 'parameter' or any(s.on_chip for s in parameter.shapes):
            continue
        slices = [u for u in users[parameter.name] if u.operands[0] == parameter.name]
        if len(slices) == len(users[parameter.name]) and slices:
            if all(u.opcode == 'dynamic-slice' for u in slices):
                read += sum(u.shapes[0].bytes for u in slices)
                continue
            if all(u.opcode == 'dynamic-update-slice' for u in slices):
                continue
        read += sum(shape.bytes for shape in parameter.shapes)
    return written + read
