"""Numba's compiler for kernels: without copying a function's variables once for each of its blocks.

Numba inlines a `part` by a deep copy of its code, block by block. Every block refers to the scope
that lists all variables, which was copied with each: a quarter of the time that compiling
`regression_loop.descend` took in Python. The code of a part is made anew for every call, so that
its scope need not be copied at all.
"""

from typing import Any

from numba.core import ir
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.inline_closurecall import InlineWorker, callee_ir_validator
from numba.core.untyped_passes import InlineInlinables


class _SharedScope(ir.Scope):
    """A scope that all copies of its blocks share."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "_SharedScope":
        return self


class _Worker(InlineWorker):
    """Inline functions, sharing their scopes."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self._compiler_pipeline = _untyped_pipeline

    def run_untyped_passes(self, func: Any, enable_ssa: bool = False) -> Any:
        """Return the code of a function."""
        code = super().run_untyped_passes(func, enable_ssa)
        for block in code.blocks.values():
            if type(block.scope) is ir.Scope:
                block.scope.__class__ = _SharedScope
        return code


@register_pass(mutates_CFG=True, analysis_only=False)
class _InlineParts(InlineInlinables):
    """Inline all parts that a function calls, and those that they call."""

    _name = "inline_parts"

    def _do_work(
        self, state: Any, work_list: Any, block: Any, i: int, expr: Any, inline_worker: Any
    ) -> Any:
        if type(inline_worker) is not _Worker:
            inline_worker = _Worker(
                state.typingctx,
                state.targetctx,
                state.locals,
                state.pipeline,
                state.flags,
                validator=callee_ir_validator,
            )
        return super()._do_work(state, work_list, block, i, expr, inline_worker)


def _with_own_inlining(pipeline: PassManager) -> PassManager:
    pipeline.passes[:] = [
        (_InlineParts if step is InlineInlinables else step, text) for step, text in pipeline.passes
    ]
    return pipeline


def _untyped_pipeline(state: Any, name: str = "untyped") -> PassManager:
    pipeline = _with_own_inlining(DefaultPassBuilder.define_untyped_pipeline(state, name))
    pipeline.finalize()
    return pipeline


class KernelCompiler(CompilerBase):
    """Numba's compiler, with this module's inlining."""

    def define_pipelines(self) -> list[PassManager]:
        """Return the one pipeline."""
        pipeline = _with_own_inlining(DefaultPassBuilder.define_nopython_pipeline(self.state))
        pipeline.finalize()
        return [pipeline]
