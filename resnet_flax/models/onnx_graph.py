"""A network as an ONNX model, translated from the operations that JAX traces, so a new block needs no change here.

A value that is (batch, ..., channels) in JAX is (batch, channels, ...) in the graph, the order in which ONNX convolves.
Additions of and multiplications by per-channel constants are collected until something else needs their result: those
that follow a convolution or dense layer, such as BatchNorm, are then folded into its weights.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partialmethod
from itertools import chain
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from resnet_flax.errors import UserError

NEEDS_ONNX = "--format=onnx needs the package onnx: install it (pip install -c constraints.txt -e '.[onnx]')"
OPSET, IR_VERSION = 18, 9  # supported since ONNX 1.14 (2023), and by today's runtimes
Shape = tuple[int, ...]
BATCH = 99_991  # size of the traced batch: a prime that no other axis has, so the batch axis is recognised anywhere
CALLS = {"jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "checkpoint"}
UNARY = {"exp": "Exp", "log": "Log", "tanh": "Tanh", "logistic": "Sigmoid", "sqrt": "Sqrt", "abs": "Abs", "erf": "Erf"}
BINARY = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min"}
WITH_CONSTANT = ("conv_general_dilated", "dot_general", "pad")  # whose second input is constant
POOLS = {"max": "MaxPool", "sum": "AveragePool"}
UNCHANGED = {"copy", "copy_p", "stop_gradient", "optimization_barrier", "sharding_constraint"}


class Linear(NamedTuple):
    """A convolution or dense layer that is not in the graph yet; `axis` of `weight` is that of its outputs."""

    op: str
    inputs: str
    weight: np.ndarray
    axis: int
    attributes: dict[str, Any]


class Windows(NamedTuple):
    """A graph tensor's pixels reshaped to (batch, rows, height, columns, width, channels), not in the graph yet."""

    pixels: str
    sides: list[int]


@dataclass
class Tensor:
    """A value that depends on the images: scale x source + shift; scale and shift are one number or one per channel."""

    shape: Shape  # as JAX has it, with BATCH for the batch
    source: str | Linear | Windows  # a str is the name of a tensor in the graph
    scale: np.ndarray | float = 1.0
    shift: np.ndarray | float = 0.0


def to_onnx(logits: Callable[[jax.Array], Any], image_shape: tuple[int, int, int], classes: Sequence[str]) -> bytes:
    """Return an ONNX model from `images` (n, *image_shape) uint8 to `probabilities` (n, classes) float32, for any n.

    `logits`, a function of the images, is traced. The names of the classes are in the metadata, as JSON under
    "classes". Raises UserError without the package onnx, and for an operation that this module does not translate.
    """
    try:
        from onnx import TensorProto, helper
    except ImportError:
        raise UserError(NEEDS_ONNX) from None
    shape = (BATCH, *image_shape)
    traced = jax.make_jaxpr(logits)(jax.ShapeDtypeStruct(shape, jnp.uint8))
    graph = Graph()
    pixels = graph.add("Transpose", ["images"], perm=[0, 3, 1, 2])
    images = Tensor(shape, graph.add("Cast", [pixels], to=TensorProto.FLOAT))
    (outputs,) = graph.translate(traced.jaxpr, traced.consts, [images])
    graph.add("Softmax", [graph.name(outputs)], axis=1, output="probabilities")
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "network",
            [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", *image_shape])],
            [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", len(classes)])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="resnet_flax",
    )
    helper.set_model_props(model, {"classes": json.dumps(list(classes))})
    return model.SerializeToString()


def axes_in_graph(axes: Iterable[int], rank: int) -> list[int]:
    """Return the axes of a value in the graph, given its axes in JAX."""
    return [0 if axis == 0 else 1 if axis == rank - 1 else axis + 1 for axis in axes]


def shape_in_graph(shape: Shape) -> list[int]:
    """Return a shape in the graph; the batch is 0, which makes ONNX copy it."""
    return [0, *shape[-1:], *shape[1:-1]]


def constant_in_graph(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, -1, 1) if array.ndim > 2 else array


def per_channel(array: np.ndarray) -> np.ndarray | None:
    """Return a constant as (channels,) or (1,) float64; None if it differs between pixels."""
    return array.reshape(-1).astype(np.float64) if array.size in (1, *array.shape[-1:]) else None


def refuse(operation: str) -> UserError:
    return UserError(
        f"--format=onnx does not translate the operation {operation!r}, which this network has: use --format=stablehlo"
    )


class Graph:
    """The nodes and constants of an ONNX graph, in the order in which they were added."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, op: str, inputs: Sequence[str | np.ndarray], output: str = "", **attributes: Any) -> str:
        """Add a node and return the name of its output. An array among the inputs becomes a constant."""
        from onnx import helper

        names = [self.constant(one) if isinstance(one, np.ndarray) else one for one in inputs]
        output = output or f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, names, [output], name=output, **attributes))
        return output

    def constant(self, array: np.ndarray) -> str:
        from onnx import numpy_helper

        name = f"constant{len(self.constants)}"
        kind = np.int64 if array.dtype.kind == "i" else np.float32
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array, kind), name))
        return name

    def name(self, tensor: Tensor) -> str:
        """Return the name of a tensor in the graph, adding it if it is not there yet."""
        source, rank = tensor.source, len(tensor.shape)
        if isinstance(source, Linear):
            across = [-1 if axis == source.axis else 1 for axis in range(source.weight.ndim)]
            weight = source.weight * np.reshape(tensor.scale, across if np.ndim(tensor.scale) else [])
            bias = [np.broadcast_to(tensor.shift, tensor.shape[-1:])] if np.any(tensor.shift) else []
            name = self.add(source.op, [source.inputs, weight, *bias], **source.attributes)
        else:
            if isinstance(source, Windows):
                source = self.add("Reshape", [source.pixels, np.array(shape_in_graph(tensor.shape))])
            name = self.affine(source, tensor.scale, tensor.shift, rank)
        tensor.source, tensor.scale, tensor.shift = name, 1.0, 0.0
        return name

    def affine(self, name: str, scale: np.ndarray | float, shift: np.ndarray | float, rank: int) -> str:
        """Add scale x `name` + shift, as a single node where ONNX has one for it."""
        if rank == 4 and max(np.size(scale), np.size(shift)) > 1 and np.any(shift):
            channels = max(np.size(scale), np.size(shift))
            factors = [np.broadcast_to(value, channels) for value in (scale, shift, 0.0, 1.0)]
            return self.add("BatchNormalization", [name, *factors], epsilon=0.0)
        across = [-1, *[1] * (rank - 2)]
        if np.any(np.not_equal(scale, 1)):
            name = self.add("Mul", [name, np.reshape(scale, across)])
        return self.add("Add", [name, np.reshape(shift, across)]) if np.any(shift) else name

    def translate(self, jaxpr: Jaxpr, constants: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        """Add the operations of a traced function and return its outputs: Tensors, or arrays where constant."""
        values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*map(np.asarray, constants), *inputs], strict=True))
        variables = [*(var for eqn in jaxpr.eqns for var in eqn.invars), *jaxpr.outvars]
        uses = Counter(var for var in variables if not isinstance(var, Literal))

        def read(var: Any) -> Any:
            value = np.asarray(var.val) if isinstance(var, Literal) else values[var]
            if isinstance(value, Tensor) and uses[var] > 1:
                self.name(value)  # so that it is computed once
            return value

        for eqn in jaxpr.eqns:
            values |= zip(eqn.outvars, self.outputs(eqn, list(map(read, eqn.invars))), strict=True)
        return [read(var) for var in jaxpr.outvars]

    def outputs(self, eqn: JaxprEqn, inputs: list[Any]) -> list[Any]:
        """Return the outputs of one operation."""
        name = eqn.primitive.name
        if name in CALLS:
            inner = next(value for value in eqn.params.values() if isinstance(value, ClosedJaxpr | Jaxpr))
            closed = inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, [])
            return self.translate(closed.jaxpr, closed.consts, inputs)
        shapes = [var.aval.shape for var in eqn.outvars]  # type: ignore[attr-defined]
        if any(BATCH in shape[1:] for shape in shapes):
            raise refuse(f"{name} of a batch that is not the first axis")
        if not any(isinstance(one, Tensor) for one in inputs):
            if any(BATCH in shape for shape in shapes):
                raise refuse(f"{name} of a constant for each image")
            found = eqn.primitive.bind(*inputs, **eqn.params)
            return list(map(np.asarray, found if eqn.primitive.multiple_results else [found]))
        for dtype in {var.aval.dtype for var in eqn.outvars} - {np.dtype(np.float32)}:  # type: ignore[attr-defined]
            raise refuse(f"{name} in {dtype}")
        result = self.operation(name, eqn.params, inputs, shapes[0])
        return [result if isinstance(result, Tensor) else Tensor(shapes[0], result)]

    def operation(self, name: str, params: dict[str, Any], inputs: list[Any], shape: tuple) -> Tensor | str:
        """Add an operation on at least one Tensor and return its output, of `shape`, or the name of that output."""
        x = inputs[0]
        if name in BINARY:
            return self.binary(name, x, inputs[1], shape)
        if not isinstance(x, Tensor) or (len(inputs) > 1 and name not in WITH_CONSTANT):
            raise refuse(name)
        if name in UNCHANGED:
            return x
        if name in UNARY:
            return self.add(UNARY[name], [self.name(x)])
        translate = getattr(self, f"translate_{name}", None)
        if translate is None:
            raise refuse(name)
        return translate(shape, *inputs, **params)

    def binary(self, name: str, a: Tensor | np.ndarray, b: Tensor | np.ndarray, shape: tuple) -> Tensor | str:
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            return self.add(BINARY[name], [self.name(a), self.name(b)])
        x, constant = (a, b) if isinstance(a, Tensor) else (b, a)
        assert isinstance(x, Tensor) and isinstance(constant, np.ndarray)
        number = per_channel(constant) if x.shape == shape else None
        if name == "max" and not constant.any():
            return self.add("Relu", [self.name(x)])
        if number is None or name in ("max", "min") or (name == "div" and x is b):
            ordered = [self.name(one) if isinstance(one, Tensor) else constant_in_graph(one) for one in (a, b)]
            return self.add(BINARY[name], ordered)
        if name in ("mul", "div"):
            factor = number if name == "mul" else 1 / number
            return Tensor(shape, x.source, x.scale * factor, x.shift * factor)
        sign = -1.0 if name == "sub" and x is b else 1.0
        added = -number if name == "sub" and x is a else number
        return Tensor(shape, x.source, sign * x.scale, sign * x.shift + added)

    def translate_neg(self, shape: Shape, x: Tensor) -> Tensor:
        return Tensor(shape, x.source, -x.scale, -x.shift)

    def translate_erfc(self, shape: Shape, x: Tensor) -> Tensor:
        return Tensor(shape, self.add("Erf", [self.name(x)]), -1.0, 1.0)

    def translate_rsqrt(self, shape: Shape, x: Tensor, /, **_: Any) -> str:
        return self.add("Reciprocal", [self.add("Sqrt", [self.name(x)])])

    def translate_square(self, shape: Shape, x: Tensor, /, **_: Any) -> str:
        return self.add("Mul", [self.name(x)] * 2)

    def translate_convert_element_type(self, shape: Shape, x: Tensor, **_: Any) -> Tensor:
        return x

    def translate_conv_general_dilated(
        self,
        shape: Shape,
        x: Tensor,
        kernel: Any,
        *,
        window_strides: Sequence[int],
        padding: Sequence[tuple[int, int]],
        lhs_dilation: Sequence[int],
        rhs_dilation: Sequence[int],
        dimension_numbers: Any,
        feature_group_count: int,
        batch_group_count: int,
        **_: Any,
    ) -> Tensor:
        channels_last = dimension_numbers.lhs_spec == dimension_numbers.out_spec == (0, 3, 1, 2)
        plain = channels_last and set(lhs_dilation) == {1} and batch_group_count == 1
        if not plain or isinstance(kernel, Tensor) or min(chain(*padding)) < 0:
            raise refuse("convolution of another kind")
        attributes = {
            "strides": list(window_strides),
            "pads": [before for before, _ in padding] + [after for _, after in padding],
            "dilations": list(rhs_dilation),
            "group": feature_group_count,
        }
        weight = kernel.transpose(dimension_numbers.rhs_spec)
        return Tensor(shape, Linear("Conv", self.name(x), weight, 0, attributes))

    def translate_dot_general(self, shape: Shape, x: Tensor, kernel: Any, dimension_numbers: Any, **_: Any) -> Tensor:
        rank = len(x.shape)
        if isinstance(kernel, Tensor) or dimension_numbers != (((rank - 1,), (0,)), ((), ())):
            raise refuse("dot_general of another kind")
        if rank == 2:
            return Tensor(shape, Linear("Gemm", self.name(x), kernel, 1, {}))
        return Tensor(shape, Linear("Conv", self.name(x), kernel.T.reshape(*kernel.T.shape, *[1] * (rank - 2)), 0, {}))

    def translate_reshape(self, shape: Shape, x: Tensor, /, **_: Any) -> Tensor | str:
        if shape[:1] != x.shape[:1] or shape[-1] != x.shape[-1]:
            raise refuse("reshape of batch or channels")
        if len(x.shape) == 4 and len(shape) == 6 and (shape[1] * shape[2], shape[3] * shape[4]) == x.shape[1:3]:
            return Tensor(shape, Windows(self.name(x), [shape[2], shape[4]]))
        return self.add("Reshape", [self.name(x), np.array(shape_in_graph(shape))])

    translate_squeeze = translate_expand_dims = translate_reshape

    def translate_broadcast_in_dim(self, shape: Shape, x: Tensor, /, *, broadcast_dimensions, **_: Any) -> str:
        inserted = [1] * len(shape)
        for axis, size in zip(broadcast_dimensions, x.shape, strict=True):
            inserted[axis] = size
        reshaped = self.translate_reshape(tuple(inserted), x)
        name = reshaped if isinstance(reshaped, str) else self.name(reshaped)
        return (
            name if tuple(inserted) == shape else self.add("Expand", [name, np.array([1, *shape_in_graph(shape)[1:]])])
        )

    def reduce(self, kind: str, shape: Shape, x: Tensor, /, *, axes: Sequence[int], **_: Any) -> Tensor:
        """Reduce over axes other than the batch and the channels; a sum is a mean times its number of values."""
        if {0, len(x.shape) - 1} & set(axes):
            raise refuse(f"{kind} over batch or channels")
        count = float(np.prod([x.shape[axis] for axis in axes])) if kind == "sum" else 1.0
        if isinstance(x.source, Windows) and tuple(axes) == (2, 4) and np.all(x.scale == 1.0) and not np.any(x.shift):
            return Tensor(shape, self.pool(kind, x.source.pixels, x.source.sides, x.source.sides, [0] * 4), count)
        op = {"max": "ReduceMax", "sum": "ReduceMean"}[kind]
        reduced = np.array(axes_in_graph(axes, len(x.shape)))
        return Tensor(shape, self.add(op, [self.name(x), reduced], keepdims=0), count)

    translate_reduce_max = partialmethod(reduce, "max")
    translate_reduce_sum = partialmethod(reduce, "sum")

    def pool(self, kind: str, name: str, sides: list[int], strides: list[int], pads: list[int]) -> str:
        attributes: dict[str, Any] = {"kernel_shape": sides, "strides": strides, "pads": pads}
        if kind == "sum":
            attributes["count_include_pad"] = 1
        return self.add(POOLS[kind], [name], **attributes)

    def reduce_window(
        self,
        kind: str,
        shape: Shape,
        x: Tensor,
        window_dimensions: Sequence[int],
        window_strides: Sequence[int],
        padding: Sequence[tuple[int, int]],
        base_dilation: Sequence[int],
        window_dilation: Sequence[int],
    ) -> Tensor:
        one = {window_dimensions[0], window_dimensions[-1], *base_dilation, *window_dilation}
        if len(shape) != 4 or one != {1}:
            raise refuse("reduce_window of another kind")
        pads = [before for before, _ in padding[1:-1]] + [after for _, after in padding[1:-1]]
        sides, strides = list(window_dimensions[1:-1]), list(window_strides[1:-1])
        count = float(np.prod(sides)) if kind == "sum" else 1.0
        return Tensor(shape, self.pool(kind, self.name(x), sides, strides, pads), count)

    translate_reduce_window_max = partialmethod(reduce_window, "max")
    translate_reduce_window_sum = partialmethod(reduce_window, "sum")

    def translate_slice(
        self, shape: Shape, x: Tensor, /, *, start_indices, limit_indices, strides, **_: Any
    ) -> Tensor | str:
        axes = [axis for axis, size in enumerate(shape) if size != x.shape[axis]]
        if not axes:
            return x
        steps = strides or [1] * len(shape)
        parts = [[values[axis] for axis in axes] for values in (start_indices, limit_indices)]
        parts += [axes_in_graph(axes, len(shape)), [steps[axis] for axis in axes]]
        if 0 in axes:
            raise refuse("slice of the batch")
        return self.add("Slice", [self.name(x), *map(np.array, parts)])

    def translate_pad(
        self, shape: Shape, x: Tensor, value: Any, /, *, padding_config: Sequence[tuple], **_: Any
    ) -> str:
        if isinstance(value, Tensor) or any(between or min(ends) < 0 for *ends, between in padding_config):
            raise refuse("pad of another kind")
        order = np.argsort(axes_in_graph(range(len(shape)), len(shape)))
        pads = [padding_config[axis][end] for end in (0, 1) for axis in order]
        return self.add("Pad", [self.name(x), np.array(pads), np.asarray(value, np.float32)])
