"""The dataflow of a network or of one of its blocks, found by tracing it, so that any module can be drawn."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Literal

from resnet_flax.models.norm import BatchNorm
from resnet_flax.models.resnet import ResNet

# What primitives outside layers do to an image; `add` and `mul` count only where they merge two paths.
IMAGE_OPERATIONS = {
    "add": "+",
    "mul": "\u00d7",
    "pad": "pad with zeros",
    "custom_vjp_call": "max pool",  # blocks.max_pool; all others are within layers
    "reduce_max": "max pool",
    "reduce_sum": "average pool",
    "reduce_window_max": "max pool",
    "reduce_window_sum": "average pool",
}
MERGES = ("add", "mul")


class Node(NamedTuple):
    """A layer, an activation, a pooling operation or a merge of two paths.

    `name` is that of the module or operation; `kind` is the module's type, "" for an operation; `inputs` are the
    positions in the graph of the nodes whose outputs it takes; `shape` is that of its output, without the batch.
    """

    name: str
    kind: str
    label: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]


class Trace(NamedTuple):
    """A network called on one image: the program in JAX's primitives, and the modules by path."""

    program: ClosedJaxpr
    modules: dict[str, nn.Module]


def trace(model: ResNet, image_shape: tuple[int, int, int]) -> Trace:
    """Trace `model` in training mode, with dropout, on an image (height, width, 3); nothing is computed."""
    modules: dict[str, nn.Module] = {}

    def record(call, args, kwargs, context):
        modules["/".join(context.module.path)] = context.module
        return call(*args, **kwargs)

    def forward(image):
        with nn.intercept_methods(record):
            keys = dict(params=jax.random.key(0), dropout=jax.random.key(0))
            return model.init_with_output(keys, image, train=True)[0]

    return Trace(jax.make_jaxpr(forward)(jnp.zeros((1, *image_shape))), modules)


def block_names(traced: Trace) -> list[str]:
    """Return the names of a network's blocks, in order."""
    return [path for path in traced.modules if re.fullmatch(r"stage\d+_block\d+", path)]


def graph(traced: Trace, block: str = "") -> list[Node]:
    """Return the nodes of the network, or of one `block`, in an order in which inputs come first.

    The first node is the input, the last gives the output. Operations that do not depend on the image are left out.
    """
    nodes = [Node("input", "", "input", (), ())]
    source = {variable: 0 for variable in traced.program.jaxpr.invars}  # variable -> the node that produces it
    inside = f"ResNet/{block}/" if block else "ResNet/"
    equation: Any  # JAX has no type for an equation's results
    for equation in traced.program.jaxpr.eqns:
        read = [variable for variable in equation.invars if not isinstance(variable, Literal)]
        origins = sorted({source[variable] for variable in read if variable in source})
        if not origins:
            continue
        scope = re.sub(r"\w+\.\w+/", "", f"{equation.source_info.name_stack}/")  # without methods of modules
        if not scope.startswith(inside):
            if len(nodes) > 1:
                break  # after the block
            at = 0
            nodes[0] = nodes[0]._replace(shape=equation.outvars[0].aval.shape[1:])
        else:
            name = scope[len(inside) :].partition("/")[0]
            at = place(nodes, equation, name, origins)
            module = traced.modules.get("/".join(filter(None, [block, name])))
            if isinstance(module, BatchNorm) and module.activation:  # applied within the module
                nodes.append(Node(module.activation.__name__, "", "", (at,), nodes[at].shape))
                at += 1
        source |= dict.fromkeys(equation.outvars, at)
    nodes[0] = nodes[0]._replace(shape=nodes[0].shape or traced.program.in_avals[0].shape[1:])
    modules = [traced.modules.get("/".join(filter(None, [block, node.name]))) for node in nodes]
    return [
        node._replace(kind=type(module).__name__ if module else "", label=label_of(node, module))
        for node, module in zip(nodes, modules, strict=True)
    ]


def place(nodes: list[Node], equation: Any, name: str, origins: list[int]) -> int:
    """Add an equation, part of the layer `name` or ("") of none, to the nodes; return the position of its node."""
    primitive = equation.params.get("name", equation.primitive.name).strip("_")  # a function under jit has a name
    if not name and (primitive not in IMAGE_OPERATIONS or (primitive in MERGES and len(origins) < 2)):
        return origins[-1]  # such as a conversion of the dtype
    shape = equation.outvars[0].aval.shape[1:]
    if name and nodes[-1].name == name:
        inputs = {*nodes[-1].inputs, *origins} - {len(nodes) - 1}
        nodes[-1] = nodes[-1]._replace(inputs=tuple(sorted(inputs)), shape=shape)
    else:
        nodes.append(Node(name or primitive, "", "", tuple(origins), shape))
    return len(nodes) - 1


def label_of(node: Node, module: nn.Module | None) -> str:
    """Return a label such as "3x3 conv, 64, /2", a convolution to 64 channels with stride 2."""
    if isinstance(module, nn.Conv):
        size = "\u00d7".join(map(str, module.kernel_size if isinstance(module.kernel_size, Sequence) else ()))
        stride = f", /{module.strides[0]}" if isinstance(module.strides, Sequence) and module.strides[0] > 1 else ""
        groups = f", {module.feature_group_count} groups" if module.feature_group_count > 1 else ""
        return f"{size} conv, {module.features}{stride}{groups}"
    if isinstance(module, nn.Dropout):
        return f"{node.name.replace('_', ' ')} {module.rate:.3g}"
    if isinstance(module, nn.Dense):
        return f"dense, {module.features}"
    return type(module).__name__ if module else IMAGE_OPERATIONS.get(node.name, node.name)
