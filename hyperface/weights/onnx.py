"""Reads the graph of an `.onnx` file, that is its operators and arrays, without ONNX.

Only the few messages of the public onnx.proto that contain them are parsed. Nothing of the file is
run, and no other file is opened.
"""

import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hyperface.weights.wire import (
    BYTES,
    FIXED32,
    MAX_AXES,
    VARINT,
    Budget,
    Field,
    WireError,
    fields,
    integers,
    numbers,
    text,
)

OPSETS = range(7, 20)
"""Versions of the operator set in which the operators of our networks have the same meaning."""

# TensorProto.data_type -> dtype. Integers are read because they are shapes; they are never weights.
DTYPES = {1: "<f4", 6: "<i4", 7: "<i8", 10: "<f2", 11: "<f8"}
# Data types that are not read, with their names for the error message.
OTHERS = {2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 16: "bfloat16", 21: "uint4", 22: "int4"}
# TensorProto.data_type -> field with the numbers, for files that do not use raw_data.
TYPED = {1: 4, 7: 7, 11: 10}


@dataclass(frozen=True)
class Node:
    """One operator of a graph, with the names of the values that it reads and computes."""

    op: str
    """Kind of the operator, such as "Conv". An operator that is not ONNX's own has its domain in
    front, as "domain.Kind"."""
    inputs: tuple[str, ...]
    """Names of the values that it reads; "" for an optional input that is left out."""
    outputs: tuple[str, ...]
    """Names of the values that it computes."""
    attributes: Mapping[str, Any]
    """The operator's constant settings, such as "strides": name -> integer, list of integers,
    float, bytes or array."""

    @property
    def label(self) -> str:
        """The operator's kind and the name of its output, for messages."""
        return f"{self.op} {self.outputs[0]!r}"


@dataclass
class Graph:
    """The graph of an ONNX file: its operators in order, and its arrays by name."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    """Name of a value -> constant array, such as the weights."""
    nodes: list[Node] = field(default_factory=list)
    """The operators. Each reads only values of operators before it, inputs and arrays."""
    inputs: dict[str, list[int | None]] = field(default_factory=dict)
    """Shapes of the network's inputs by name; None stands for an axis of any size."""
    outputs: list[str] = field(default_factory=list)
    """Names of the network's outputs."""

    def image_shape(self) -> tuple[int, int, int]:
        """Returns the shape [height, width, channels] of the images that the graph takes.

        Raises:
          WireError: the graph does not take one batch of images of a fixed size.
        """
        if len(self.inputs) != 1 or len(self.outputs) != 1:
            raise WireError(
                f"expected one input and one output, found {len(self.inputs)} and "
                f"{len(self.outputs)}"
            )
        (shape,) = self.inputs.values()
        sides = [side for side in shape[1:] if isinstance(side, int) and side > 0]
        if len(shape) != 4 or len(sides) != 3:
            raise WireError(
                "expected images [batch, channels, height, width] of one size, found "
                f"{['any' if side is None else side for side in shape]}"
            )
        channels, height, width = sides
        return height, width, channels


def read(data: bytes) -> dict[str, np.ndarray]:
    """Returns all arrays of an ONNX file, under the file's own names.

    Raises:
      WireError: the bytes are truncated, damaged or not an ONNX network; its weights are quantised
        or in another file; or this reader does not know its operator set.
    """
    return read_graph(data).arrays


def read_graph(data: bytes) -> Graph:
    """Returns the graph of an ONNX file.

    Args:
      data: the content of the file.

    Raises:
      WireError: the bytes are truncated, damaged or not an ONNX network; its weights are quantised
        or in another file; or this reader does not know its operator set.
    """
    budget, graph, opset = Budget(), None, None
    # ModelProto: 7 graph, 8 opset_import.
    for item in fields(memoryview(data), budget):
        if item.number == 7 and item.wire == BYTES:
            # In protocol buffers a second graph would silently replace the first one.
            if graph is not None:
                raise WireError("it has two graphs")
            graph = item.value
        elif item.number == 8 and item.wire == BYTES:
            domain, version = _operator_set(item.value, budget)
            opset = version if domain in ("", "ai.onnx") else opset
    if graph is None or opset is None:
        raise WireError("it has no graph of operators")
    if opset not in OPSETS:
        raise WireError(
            f"expected operator set {OPSETS[0]} to {OPSETS[-1]}, found {opset}: export the network "
            "again with one of these"
        )
    found = _graph(graph, budget)
    if not (found.arrays and found.nodes):
        raise WireError("it has no operators with weights")
    return found


def _operator_set(message: memoryview, budget: Budget) -> tuple[str, int]:
    # OperatorSetIdProto: 1 domain, 2 version.
    domain, version = "", 0
    for item in fields(message, budget):
        if item.number == 1 and item.wire == BYTES:
            domain = text(item.value, "a domain")
        elif item.number == 2 and item.wire == VARINT:
            version = item.value
    return domain, version


def _graph(message: memoryview, budget: Budget) -> Graph:
    graph = Graph()
    # GraphProto: 1 node, 5 initializer, 11 input, 12 output, 15 sparse_initializer.
    for item in fields(message, budget):
        if item.wire != BYTES:
            continue
        number, value = item.number, item.value
        if number == 1:
            graph.nodes.append(_node(value, budget))
        elif number == 5:
            name, array = _tensor(value, budget)
            _add(graph.arrays, name, array)
        elif number == 11:
            name, shape = _value(value, budget)
            _add(graph.inputs, name, shape)
        elif number == 12:
            graph.outputs.append(_value(value, budget)[0])
        elif number == 15:
            raise WireError("expected float32 weights, found sparse ones")
    for node in graph.nodes:
        if node.op == "Constant" and isinstance(node.attributes.get("value"), np.ndarray):
            _add(graph.arrays, node.outputs[0], node.attributes["value"])
    # Until IR version 3 a file had to list its arrays among the inputs too.
    graph.inputs = {name: s for name, s in graph.inputs.items() if name not in graph.arrays}
    _check_order(graph)
    return graph


def _add(found: dict[str, Any], name: str, value: Any) -> None:
    if name in found:
        raise WireError(f"two values are named {name!r}")
    found[name] = value


def _check_order(graph: Graph) -> None:
    """Raises WireError unless each value is computed once, before it is read."""
    known = {*graph.arrays, *graph.inputs, ""}
    for node in graph.nodes:
        made = node.outputs if node.op != "Constant" else ()
        missing = [name for name in node.inputs if name not in known]
        if missing or known.intersection(made) - {""}:
            raise WireError(f"{node.label} reads or computes a value out of order")
        known.update(node.outputs)
    if not known.issuperset(graph.outputs):
        raise WireError("no operator computes its output")


def _node(message: memoryview, budget: Budget) -> Node:
    # NodeProto: 1 input, 2 output, 4 op_type, 5 attribute, 7 domain.
    names: dict[int, list[str]] = {1: [], 2: []}
    op, domain, attributes = "", "", {}
    for item in fields(message, budget):
        if item.wire != BYTES:
            continue
        number, value = item.number, item.value
        if number in names:
            names[number].append(text(value, "the name of a value"))
        elif number == 4:
            op = text(value, "the name of an operator")
        elif number == 5:
            name, found = _attribute(value, budget)
            attributes[name] = found
        elif number == 7:
            domain = text(value, "a domain")
    if not op or not names[2]:
        raise WireError("an operator has no name or no output")
    # An operator of another domain may have the name of a known one and compute something else.
    if domain not in ("", "ai.onnx"):
        op = f"{domain}.{op}"
    return Node(op, tuple(names[1]), tuple(names[2]), attributes)


def _attribute(message: memoryview, budget: Budget) -> tuple[str, Any]:
    # AttributeProto: 1 name, 2 f, 3 i, 4 s, 5 t, 8 ints.
    name, found, listed = "", None, []
    for item in fields(message, budget):
        number = item.number
        if number == 1 and item.wire == BYTES:
            name = text(item.value, "the name of an attribute")
        elif number == 2 and item.wire == FIXED32:
            found = struct.unpack("<f", item.value)[0]
        elif number == 3 and item.wire == VARINT:
            found = _signed(item.value)
        elif number == 4 and item.wire == BYTES:
            found = bytes(item.value[:100])  # Known texts are short, such as "SAME_UPPER".
        elif number == 5 and item.wire == BYTES:
            found = _tensor(item.value, budget)[1]
        elif number == 8 and item.wire in (VARINT, BYTES):
            listed += map(_signed, integers(item))
            if len(listed) > MAX_AXES:
                raise WireError(f"an operator has more than {MAX_AXES} axes")
    return name, listed or found


def _signed(value: int) -> int:
    # The wire format stores a negative number as its two's complement of 64 bits.
    return value - 2**64 if value >= 2**63 else value


def _tensor(message: memoryview, budget: Budget) -> tuple[str, np.ndarray]:
    # TensorProto: 1 dims, 2 data_type, 8 name, 9 raw_data, 13 external_data, 14 data_location.
    name, kind, shape, raw, typed, outside = "", 0, [], None, {}, False
    for item in fields(message, budget):
        number = item.number
        if number == 1 and item.wire in (VARINT, BYTES):
            shape += integers(item)
            if len(shape) > MAX_AXES:
                raise WireError(f"an array has more than {MAX_AXES} axes")
        elif number == 2 and item.wire == VARINT:
            kind = item.value
        elif number == 8 and item.wire == BYTES:
            name = text(item.value, "the name of an array")
        elif number == 9 and item.wire == BYTES:
            raw = item.value
        elif number in TYPED.values():
            typed.setdefault(number, []).append(item)
        # The numbers are in another file. We do not open it, because a foreign file chose the path.
        elif number == 13 or (number == 14 and item.value != 0):
            outside = True
    if outside:
        raise WireError(
            f"expected all numbers in one file, found {name!r} in another one: save the network "
            "without external data"
        )
    if kind not in DTYPES:
        raise WireError(
            f"expected float32 weights, found {OTHERS.get(kind, f'type {kind}')} in {name!r}: take "
            "the file from before it was quantised"
        )
    dtype = np.dtype(DTYPES[kind])
    flat = numbers(raw, dtype) if raw is not None else _typed(typed.get(TYPED.get(kind), ()), dtype)
    # A damaged shape may be huge. math.prod is exact, while NumPy's product could overflow to
    # a number that happens to equal the size.
    if math.prod(shape) != flat.size:
        raise WireError(f"the array {name!r} of shape {shape} has {flat.size} numbers")
    return name, flat.reshape(shape)


def _typed(items: Iterable[Field], dtype: np.dtype) -> np.ndarray:
    """Returns the numbers of a tensor that stores them in the field of their type.

    Each field contains one number, or a packed run of them.
    """
    if dtype.kind == "i":
        return np.array([_signed(n) for item in items for n in integers(item)], dtype)
    parts = [numbers(item.value, dtype) for item in items if item.wire != VARINT]
    return np.concatenate(parts) if parts else np.zeros(0, dtype)


def _value(message: memoryview, budget: Budget) -> tuple[str, list[int | None]]:
    """Returns the name and the shape of an input or output (ValueInfoProto)."""
    name, shape = "", []
    for item in fields(message, budget):
        if item.number == 1 and item.wire == BYTES:
            name = text(item.value, "the name of an input")
        elif item.number == 2 and item.wire == BYTES:
            # The nesting is type -> tensor_type (1) -> shape (2) -> dim (1) -> dim_value (1).
            for inner in _within(_within([item.value], 1, budget), 2, budget):
                shape += [_side(dim, budget) for dim in _within([inner], 1, budget)]
    if len(shape) > MAX_AXES:
        raise WireError(f"{name!r} has more than {MAX_AXES} axes")
    return name, shape


def _within(messages: Iterable[memoryview], number: int, budget: Budget) -> list[memoryview]:
    """Returns the messages that are in the fields of this number inside the given messages."""
    return [
        item.value
        for message in messages
        for item in fields(message, budget)
        if item.number == number and item.wire == BYTES
    ]


def _side(message: memoryview, budget: Budget) -> int | None:
    sides = [f.value for f in fields(message, budget) if f.number == 1 and f.wire == VARINT]
    return sides[0] if sides and 0 < sides[0] < 2**31 else None
