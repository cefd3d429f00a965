"""Triton's interpreter, made to run with NumPy 2.4, to multiply matrices of bfloat16, and several times faster."""

import numpy as np
import triton.language as tl
from numpy.typing import NDArray
from triton.runtime import interpreter


def prepare_interpreter() -> None:
    """Patch Triton's interpreter for this process.

    It holds scalars as arrays of one element, which NumPy 2.4 no longer turns into an int, so that `range(n)` fails;
    bfloat16 as integers, which it would multiply as such, and makes them by cutting digits off. And it patches the
    whole language anew at each call of a device function; once a launch is enough.
    """
    patch_tensor = interpreter._patch_lang_tensor
    launch = interpreter.GridExecutor.__call__
    multiply = interpreter.InterpreterBuilder.create_dot
    cut = interpreter.InterpreterBuilder.create_fp_trunc
    patched: set[tuple[bool, bool]] = set()

    def patch_tensor_with_index(tensor: type, scope: interpreter._LangPatchScope) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    def call_device_function(self: interpreter.InterpretedFunction, *args: object, **kwargs: object) -> object:
        names = self.fn.__globals__
        languages = (any(v is tl for v in names.values()), any(v is tl.core for v in names.values()))
        if languages not in patched:
            interpreter._patch_lang(self.fn)
            patched.add(languages)
        return self.rewrite()(*args, **kwargs)

    def multiply_numbers(
        self: interpreter.InterpreterBuilder,
        a: interpreter.TensorHandle,
        b: interpreter.TensorHandle,
        *rest: object,
    ) -> interpreter.TensorHandle:
        if a.dtype.scalar == tl.bfloat16:
            a, b = (interpreter.TensorHandle(_float32(factor.data), tl.float32) for factor in (a, b))
        return multiply(self, a, b, *rest)

    def shorten(
        self: interpreter.InterpreterBuilder, value: interpreter.TensorHandle, to: tl.dtype
    ) -> interpreter.TensorHandle:
        if (value.dtype.scalar, to.scalar) == (tl.float32, tl.bfloat16):
            return interpreter.TensorHandle(_bfloat16(value.data), tl.bfloat16)
        return cut(self, value, to)

    def launch_afresh(self: interpreter.GridExecutor, *args: object, **kwargs: object) -> None:
        patched.clear()
        launch(self, *args, **kwargs)

    interpreter._patch_lang_tensor = patch_tensor_with_index
    interpreter.InterpretedFunction.__call__ = call_device_function
    interpreter.GridExecutor.__call__ = launch_afresh
    interpreter.InterpreterBuilder.create_dot = multiply_numbers
    interpreter.InterpreterBuilder.create_fp_trunc = shorten


def _bfloat16(value: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = np.ascontiguousarray(value).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(value), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def _float32(bfloat16: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (bfloat16.astype(np.uint32) << 16).view(np.float32)
