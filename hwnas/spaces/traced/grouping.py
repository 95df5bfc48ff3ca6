"""Groups of a traced graph's nodes that are measured as one operator.

A node belongs to the group of its users if they are all in one group. So a group has one result,
which several groups, a choice, or the network's output read; a stem, a residual block without
choices, and a head are one group each.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from hwnas.errors import InputError


@dataclass(frozen=True)
class Group:
    """Nodes that are measured together.

    Attributes:
        module: computes the result.
        inputs: nodes with the module's inputs, in their order.
        result: the node whose value it computes.
    """

    module: nn.Module
    inputs: tuple[fx.Node, ...]
    result: fx.Node


@dataclass(frozen=True)
class Work:
    """The nodes of a traced graph that compute something of the network's output.

    Attributes:
        graph: the graph.
        values: the value of each node.
        is_choice: whether a node calls a searchable module.
        depending: nodes whose values depend on the network's input.
        used: nodes that the output depends on, and the output itself.
    """

    graph: fx.Graph
    values: Mapping[fx.Node, Any]
    is_choice: Callable[[fx.Node], bool]
    depending: set[fx.Node]
    used: set[fx.Node]

    @classmethod
    def of(
        cls,
        graph: fx.Graph,
        values: Mapping[fx.Node, Any],
        is_choice: Callable[[fx.Node], bool],
    ) -> Work:
        """Look at a graph that was run."""
        return cls(graph, values, is_choice, _depending_on_inputs(graph), _used_by_output(graph))

    def is_inline(self, node: fx.Node) -> bool:
        """Whether a node is computed again in each group that reads it: sizes and constants."""
        if node.op == "placeholder" or self.is_choice(node):
            return False
        return node not in self.depending or not _has_tensor(self.values.get(node))

    def is_work(self, node: fx.Node) -> bool:
        """Whether a node belongs to a group."""
        if node not in self.used or node.op in ("placeholder", "output"):
            return False
        return not self.is_choice(node) and not self.is_inline(node)

    def users(self, node: fx.Node) -> Iterator[fx.Node]:
        """The nodes that read a value, directly or by its sizes."""
        for user in node.users:
            if user.op != "output" and self.is_inline(user):
                yield from self.users(user)
            else:
                yield user

    def used_users(self, node: fx.Node) -> set[fx.Node]:
        """Those of `users` that the output depends on."""
        return {user for user in self.users(node) if user in self.used}

    def producers(self, node: fx.Node) -> Iterator[fx.Node]:
        """The nodes whose values a node reads, directly or by their sizes."""
        for other in node.all_input_nodes:
            if self.is_inline(other):
                yield from self.producers(other)
            else:
                yield other


def groups_of(
    module: nn.Module,
    graph: fx.Graph,
    values: Mapping[fx.Node, Any],
    is_choice: Callable[[fx.Node], bool],
    where: str,
) -> Iterator[Group]:
    """Put the nodes of a graph outside its choices into groups.

    Args:
        module: the module that was traced.
        graph: its graph.
        values: the value of each node.
        is_choice: whether a node calls a searchable module.
        where: names the module in errors.

    Raises:
        InputError: when several groups would read a value that is not a tensor, such as the tuple
            that a recurrent layer returns.
    """
    work = Work.of(graph, values, is_choice)
    root_of: dict[fx.Node, fx.Node] = {}
    for node in filter(work.is_work, reversed(graph.nodes)):
        roots = {root_of.get(user) for user in work.used_users(node)}
        (root,) = roots if len(roots) == 1 else (None,)
        root_of[node] = node if root is None else root
    yield from collected(module, work, root_of, where)


def collected(
    module: nn.Module, work: Work, root_of: Mapping[fx.Node, fx.Node], where: str
) -> Iterator[Group]:
    """The groups of nodes that have the same root, which computes the group's result.

    Args:
        module: the module that was traced.
        work: its nodes.
        root_of: the root of each node that is work.
        where: names the module in errors.

    Raises:
        InputError: see `groups_of`.
    """
    graph, values = work.graph, work.values
    for result in filter(lambda node: root_of.get(node) is node, list[fx.Node](graph.nodes)):
        if not isinstance(values[result], Tensor):
            raise InputError(
                "a value that several parts of the model read is not a tensor",
                where=f"{where}: {result.name}",
                expected="one tensor",
                actual=type(values[result]).__name__,
                mend="put the call and what takes it apart into a module of their own",
            )
        yield _group(module, graph, result, root_of, work.is_inline, values)


def _depending_on_inputs(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose values depend on the network's input."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or any(other in found for other in node.all_input_nodes):
            found.add(node)
    return found


def _used_by_output(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that the output depends on, and the output itself."""
    found: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or any(user in found for user in node.users):
            found.add(node)
    return found


def _has_tensor(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(map(_has_tensor, value))
    return isinstance(value, Tensor)


def _group(
    module: nn.Module,
    graph: fx.Graph,
    root: fx.Node,
    root_of: Mapping[fx.Node, fx.Node],
    is_inline: Callable[[fx.Node], bool],
    values: Mapping[fx.Node, Any],
) -> Group:
    """Copy the nodes of a group, and the constants they need, into a module of their own.

    Sizes of tensors become constants, but for the size of the batch, which is that of any input.
    """
    needed: dict[fx.Node, bool] = {}

    def visit(node: fx.Node) -> None:
        """Find what the group computes (True) and what it reads (False)."""
        if node not in needed:
            needed[node] = root_of.get(node) is root or is_inline(node)
            if needed[node] and _dimension(node) is None:
                for other in node.all_input_nodes:
                    visit(other)

    visit(root)
    inputs = tuple(node for node in graph.nodes if needed.get(node) is False)
    own = [node for node in graph.nodes if needed.get(node)]
    chain = _chain(module, own, inputs)
    if chain is not None:
        return Group(chain, inputs, root)
    copied = fx.Graph()
    new: dict[fx.Node, Any] = {n: copied.placeholder(f"x{k}") for k, n in enumerate(inputs)}
    for node in own:
        dimension = _dimension(node)
        if dimension == 0 and inputs:
            new[node] = copied.call_method("size", (new[inputs[0]], 0))
        elif dimension is not None:
            new[node] = values[node]
        else:
            new[node] = copied.node_copy(node, new.__getitem__)
        if isinstance(new[node], fx.Node):
            # Names must not depend on where in the model the group is.
            new[node].name = f"v{len(new)}"
    copied.output(new[root])
    return Group(_renamed(fx.GraphModule(module, copied)), inputs, root)


def _dimension(node: fx.Node) -> int | None:
    """The dimension whose size a node is, as `x.size(0)` or `x.shape[0]`; else None."""
    if node.op == "call_method" and node.target == "size" and len(node.args) == 2:
        dimension = node.args[1]
    elif node.op == "call_function" and node.target is operator.getitem:
        shape, dimension = node.args
        if not isinstance(shape, fx.Node) or not _is_shape(shape):
            return None
    else:
        return None
    return dimension if isinstance(dimension, int) else None


def _is_shape(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target == "size" and len(node.args) == 1
    return node.op == "call_function" and node.target is getattr and node.args[1] == "shape"


def _chain(module: nn.Module, own: list[fx.Node], inputs: tuple[fx.Node, ...]) -> nn.Module | None:
    """The modules of a group that calls one after the other, as one module; else None."""
    before = inputs[0] if len(inputs) == 1 else None
    if len(own) == 1 and own[0].op == "call_module" and own[0].args == inputs:
        return module.get_submodule(str(own[0].target))
    for node in own:
        if node.op != "call_module" or node.args != (before,) or node.kwargs:
            return None
        before = node
    return nn.Sequential(*(module.get_submodule(str(node.target)) for node in own))


def _renamed(group: fx.GraphModule) -> fx.GraphModule:
    """The same module with its submodules and tensors numbered, wherever they are in the model."""
    root = nn.Module()
    names: dict[str, str] = {}
    for node in group.graph.nodes:
        if node.op not in ("call_module", "get_attr"):
            continue
        target = str(node.target)
        if target not in names:
            names[target] = f"m{len(names)}"
            setattr(root, names[target], operator.attrgetter(target)(group))
        node.target = names[target]
    return fx.GraphModule(root, group.graph, class_name="Group")
