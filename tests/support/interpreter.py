"""Triton's interpreter, made to run with NumPy 2.4 and several times faster."""

import triton.language as tl
from triton.runtime import interpreter


def prepare_interpreter() -> None:
    """Patch Triton's interpreter for this process.

    It holds scalars as arrays of one element, which NumPy 2.4 no longer turns into an int, so that `range(n)` fails.
    And it patches the whole language anew at each call of a device function; once a launch is enough.
    """
    patch_tensor = interpreter._patch_lang_tensor
    launch = interpreter.GridExecutor.__call__
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

    def launch_afresh(self: interpreter.GridExecutor, *args: object, **kwargs: object) -> None:
        patched.clear()
        launch(self, *args, **kwargs)

    interpreter._patch_lang_tensor = patch_tensor_with_index
    interpreter.InterpretedFunction.__call__ = call_device_function
    interpreter.GridExecutor.__call__ = launch_afresh
