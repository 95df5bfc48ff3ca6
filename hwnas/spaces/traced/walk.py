"""A walk through a model that runs every option of every choice once.

The model's own code runs on an example. Modules without choices in them are run as they are. Those
with choices are traced by `torch.fx`, which needs code without control flow that depends on the
values of tensors. What lies outside choices is put into groups (see `grouping`), and each branch of
a choice is walked in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from hwnas.errors import InputError, first_line
from hwnas.nn.searchable import Alternatives, Repeat, Searchable
from hwnas.spaces.traced.described import Literals
from hwnas.spaces.traced.grouping import groups_of
from hwnas.spaces.traced.operators import Operator, is_free, operator_of


@dataclass(frozen=True)
class Piece:
    """One run of an operator, and the options with which it runs."""

    operator: Operator
    when: Literals


@dataclass
class Walk:
    """What is found on the way.

    Attributes:
        model: in evaluation mode, without widths that are still open.
        inputs: example inputs of the model, (N, ...) each.
            paths: the path of each searchable module, by id.
        pieces: the runs of operators, in an order that depends on the model's code alone.
        matters: for each row that was met, the lists of options under which it decides something.
        output_shape: of the model, for one sample.
        met: the paths of the searchable modules that were called.
    """

    model: nn.Module
    inputs: tuple[Tensor, ...]
    paths: dict[int, str]
    pieces: list[Piece] = field(default_factory=list)
    matters: dict[int, list[Literals]] = field(default_factory=dict)
    output_shape: tuple[int, ...] = ()
    met: set[str] = field(default_factory=set)

    def run(self) -> None:
        """Walk through the whole model.

        Raises:
            InputError: when the model cannot be run or traced, or its choices do not fit.
        """
        with torch.no_grad():
            output = self._module(self.model, self.inputs, {}, (), "the model")
        if not isinstance(output, Tensor):
            raise InputError(
                "the output of the model is not a tensor",
                where="the model",
                expected="one tensor (N, ...)",
                actual=type(output).__name__,
            )
        self.output_shape = tuple(output.shape[1:])

    def _module(
        self,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        when: Literals,
        where: str,
    ) -> Any:
        """Run a module with the options under which it is run."""
        if isinstance(module, Searchable):
            return self._choice(module, args, kwargs, when)
        if has_choices(module):
            return self._composite(module, args, kwargs, when, where)
        output = _called(module, args, kwargs, where)
        if not is_free(module):
            self._add(module, args, kwargs, output, when, where)
        return output

    def _add(
        self,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
        when: Literals,
        where: str,
    ) -> None:
        given = [*args, *kwargs.values()]
        if kwargs or not all(isinstance(x, Tensor) for x in [*given, output]) or not given:
            raise InputError(
                "only modules that map tensors to one tensor can be chosen and measured",
                where=where,
                actual=f"{', '.join(type(x).__name__ for x in given)} to {type(output).__name__}",
                mend="give the other arguments to the constructor",
            )
        for tensor in [*given, output]:
            self._require_batch(tensor, where)
        # Only what reads the first input is priced with the cost of a run.
        reads_input = any(x is self.inputs[0] for x in args)
        piece = Piece(operator_of(module, args, output, reads_input=reads_input), when)
        self.pieces.append(piece)

    def _require_batch(self, tensor: Tensor, where: str) -> None:
        batch = self.inputs[0].shape[0]
        if tensor.dim() == 0 or tensor.shape[0] != batch:
            raise InputError(
                "the first dimension of a tensor between operators has to be the batch",
                where=where,
                expected=f"({batch}, ...)",
                actual=tuple(tensor.shape),
            )

    def _choice(
        self,
        module: Searchable,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        when: Literals,
    ) -> Any:
        self.met.add(self.paths[id(module)])
        for row in module.rows:
            others = tuple(literal for literal in when if literal[0] != row)
            self.matters.setdefault(row, []).append(others)
        if isinstance(module, Alternatives):
            return self._alternatives(module, args, kwargs, when)
        assert isinstance(module, Repeat)
        return self._repeat(module, args, when)

    def _alternatives(
        self,
        module: Alternatives,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        when: Literals,
    ) -> Any:
        """Run every branch; all of them have to have outputs of the same shape."""
        path = self.paths[id(module)]
        outputs: dict[str, Any] = {}
        for number, branch in enumerate(module.branches):
            options = module.options_of(number)
            inner = with_literals(when, [(row, (option,)) for row, option in options])
            if inner is None:
                continue
            name = module.label(number)
            outputs[name] = self._module(branch, args, kwargs, inner, f"{path}, option {name}")
        self._require_equal_shapes(path, outputs)
        return next(iter(outputs.values()))

    def _repeat(self, module: Repeat, args: tuple[Any, ...], when: Literals) -> Any:
        """Run all blocks; the outputs at all depths have to have the same shape."""
        (x,), (row,), path = args, module.rows, self.paths[id(module)]
        least, outputs = module.depths[0], {}
        for number, block in enumerate(module.blocks):
            if number >= least:
                outputs[f"{number} blocks"] = x
            deep = tuple(k for k, depth in enumerate(module.depths) if depth > number)
            is_optional = len(deep) < len(module.depths)
            inner = with_literals(when, [(row, deep)] if is_optional else [])
            assert inner is not None
            x = self._module(block, (x,), {}, inner, f"{path}, block {number}")
        outputs[f"{len(module.blocks)} blocks"] = x
        self._require_equal_shapes(path, outputs)
        return x

    def _require_equal_shapes(self, path: str, outputs: dict[str, Any]) -> None:
        shapes = {
            name: tuple(y.shape[1:]) if isinstance(y, Tensor) else type(y).__name__
            for name, y in outputs.items()
        }
        if len(set(shapes.values())) > 1 or not all(isinstance(s, tuple) for s in shapes.values()):
            raise InputError(
                "the outputs of a choice's options are not tensors of the same shape",
                where=path,
                actual=", ".join(f"{name}: {shape}" for name, shape in shapes.items()),
                mend="make the modules' output sizes equal, or share a Width between the layers",
            )

    def _composite(
        self,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        when: Literals,
        where: str,
    ) -> Any:
        """Trace a module with choices in it, run its nodes, and put them into groups."""
        graph = _traced(module, where)
        runner = Runner(self, module, graph, when, where)
        output = runner.run_all(args, kwargs)
        for group in groups_of(module, graph, runner.values, runner.is_choice, where):
            if not is_free(group.module):
                given = tuple(runner.values[node] for node in group.inputs)
                place = f"{where}: {group.result.name}"
                self._add(group.module, given, {}, runner.values[group.result], when, place)
        return output


class _Tracer(fx.Tracer):
    """Modules with choices are traced, all others are single nodes."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Searchable) or not has_choices(m)


class Runner(fx.Interpreter):
    """Runs a traced graph, keeps the values of its nodes, and walks its choices."""

    def __init__(
        self, walk: Walk, module: nn.Module, graph: fx.Graph, when: Literals, where: str
    ) -> None:
        super().__init__(module, garbage_collect_values=False, graph=graph)
        self.extra_traceback = False
        self.walk, self.when, self.where = walk, when, where
        self.values: dict[fx.Node, Any] = {}

    def run_all(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the graph on the arguments of the module's `forward`."""
        names = [node.target for node in self.graph.nodes if node.op == "placeholder"]
        given = dict(zip(names, args, strict=False)) | kwargs
        # `run` takes the arguments by position and fills in defaults behind the last one.
        return self.run(*(given[name] for name in names if name in given))

    def is_choice(self, node: fx.Node) -> bool:
        """Whether a node calls a searchable module."""
        return node.op == "call_module" and isinstance(
            self.module.get_submodule(str(node.target)), Searchable
        )

    def run_node(self, n: fx.Node) -> Any:
        self.values[n] = super().run_node(n)
        return self.values[n]

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = self.module.get_submodule(str(target))
        if isinstance(module, Searchable):
            return self.walk._module(module, args, kwargs, self.when, str(target))
        return _called(module, args, kwargs, f"{self.where}: {target}")

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _called(target, args, kwargs, self.where)

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        owner, *rest = args
        return _called(getattr(owner, target), tuple(rest), kwargs, self.where)


def _called(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], where: str) -> Any:
    """Call the user's code; whatever it raises becomes an error that names the place."""
    try:
        return function(*args, **kwargs)
    except InputError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(x.shape)) for x in args if isinstance(x, Tensor))
        raise InputError(
            f"this part of the model does not run on inputs {shapes}",
            where=where,
            actual=first_line(error),
        ) from error


def _traced(module: nn.Module, where: str) -> fx.Graph:
    try:
        return _Tracer().trace(module)
    except Exception as error:
        raise InputError(
            "this module contains choices and cannot be traced by torch.fx",
            where=f"{where}: {type(module).__name__}",
            expected="a forward whose control flow does not depend on the values of tensors",
            actual=first_line(error),
            mend="move what depends on values into a module without choices, which is not traced",
        ) from error


def has_choices(module: nn.Module) -> bool:
    """Whether a module contains searchable modules, or is one."""
    return any(isinstance(child, Searchable) for child in module.modules())


def with_literals(when: Literals, added: Sequence[tuple[int, tuple[int, ...]]]) -> Literals | None:
    """Both sets of conditions together; None if they exclude each other."""
    joined = {row: set(options) for row, options in when}
    for row, options in added:
        joined[row] = joined.get(row, set(options)) & set(options)
        if not joined[row]:
            return None
    return tuple((row, tuple(sorted(joined[row]))) for row in sorted(joined))
