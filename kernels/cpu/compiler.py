"""Numba's compiler for kernels, without two kinds of work that kernels do not need.

Numba inlines a `part` by a deep copy of its code, block by block. Every block refers to the scope
that lists all variables, which was copied with each: a quarter of the time that compiling
`regression_loop.descend` took in Python. The code of a part is made anew for every call, so that
its scope need not be copied at all.

LLVM optimises in three rounds: every function, then cheaply the whole module, so that reference
counts that cancel come to lie in one function and are removed, then thoroughly the whole module.
Kernels count no references, and the third round does all that the first two do: without them, the
code is as fast, and compiling `descend` with all that it calls takes a sixth less.
"""

import functools
from typing import Any

from numba.core import ir
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.inline_closurecall import InlineWorker, callee_ir_validator
from numba.core.typed_passes import NativeLowering
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


def _only_state_layout(library: Any, module: Any) -> None:
    """Do not optimise the functions of a module."""
    module.data_layout = library.codegen._data_layout


def _optimize_once(library: Any) -> None:
    """Optimise all of a library."""
    passes, builder = library.codegen._module_pass_manager()
    # Numba's second round begins with these. Without them after the last one, batched Haar frames
    # in float64 took a tenth longer.
    passes.add_loop_rotate_pass()
    passes.add_instruction_combine_pass()
    passes.add_jump_threading_pass()
    passes.run(library._final_module, builder)


@register_pass(mutates_CFG=True, analysis_only=False)
class _Lowering(NativeLowering):
    """Generate code that LLVM optimises once."""

    _name = "kernel_lowering"

    def run_pass(self, state: Any) -> bool:
        """Generate code."""
        codegen = state.targetctx.codegen()
        # Versions of Numba before 0.62 have LLVM's older pass manager, which stays as it is.
        if state.library is None and isinstance(codegen._module_pass_manager(), tuple):
            library = codegen.create_library(state.func_id.func_qualname)
            library.enable_object_caching()
            library._optimize_functions = functools.partial(_only_state_layout, library)
            library._optimize_final_module = functools.partial(_optimize_once, library)
            state.library = library
        done: bool = super().run_pass(state)
        return done


_REPLACED = {InlineInlinables: _InlineParts, NativeLowering: _Lowering}


def _with_own_passes(pipeline: PassManager) -> PassManager:
    pipeline.passes[:] = [(_REPLACED.get(step, step), text) for step, text in pipeline.passes]
    return pipeline


def _untyped_pipeline(state: Any, name: str = "untyped") -> PassManager:
    pipeline = _with_own_passes(DefaultPassBuilder.define_untyped_pipeline(state, name))
    pipeline.finalize()
    return pipeline


class KernelCompiler(CompilerBase):
    """Numba's compiler, with this module's passes."""

    def define_pipelines(self) -> list[PassManager]:
        """Return the one pipeline."""
        pipeline = _with_own_passes(DefaultPassBuilder.define_nopython_pipeline(self.state))
        pipeline.finalize()
        return [pipeline]
