"""Compiles the C++ kernels of a graph as one program.

Inductor compiles each kernel alone, in about a second, most of which goes into reading torch's
headers and linking. Here a graph's kernels that no cache has are one program in a file:

    namespace a { kernel, its module }    namespace b { kernel, its module }    ...

and each is loaded from that file under a name of its own. They are the same kernels, compiled with
the same options.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch._inductor.async_compile import AsyncCompile
from torch._inductor.codecache import CppPythonBindingsCodeCache
from torch._inductor.cpp_builder import CppBuilder, CppTorchDeviceOptions
from torch._inductor.cpu_vec_isa import pick_vec_isa
from torch._inductor.runtime.cache_dir_utils import cache_dir

Function = Callable[..., None]


class Programs(CppPythonBindingsCodeCache):
    """Compiles a program and leaves loading to the caller."""

    cache = {}  # noqa: RUF012 (of the class, as in the one above)

    @staticmethod
    def _load_library_inner(path: str, key: str) -> Any:
        return SimpleNamespace(path=path)


class Kernel:
    """A kernel that is compiled with the others of its graph, by `load_together`.

    Attributes:
        name: of its namespace, its Python module and that module's only function.
        source: of its function and of its Python module.
    """

    def __init__(self, argtypes: list[str], source: str) -> None:
        said = "\n".join([command_line(), *argtypes, source])
        self.name = "k" + sha256(said.encode()).hexdigest()[:32]
        arguments = ", ".join(
            f"parse_arg<{kind.removeprefix('const ')}>(args, {i})"
            for i, kind in enumerate(argtypes)
        )
        self.source = source + CppPythonBindingsCodeCache.suffix_template.format(
            arg_len=len(argtypes),
            call_entry_func=CppPythonBindingsCodeCache.call_entry_function.format(arguments),
            entry_func=self.name,
            extra_parse_arg="",
        )

    @property
    def file(self) -> Path:
        return Path(cache_dir(), "kernels_together", self.name + ".so")

    def load(self) -> Function:
        """Returns the function, which has been compiled."""
        loading = type("Loading", (CppPythonBindingsCodeCache,), {"entry_function": self.name})
        module = loading._load_library_inner(str(self.file), self.name)
        return getattr(module, self.name)  # type: ignore[no-any-return]


def command_line() -> str:
    """Returns how the compiler is called at present, but for the names of files."""
    options = CppTorchDeviceOptions(
        vec_isa=pick_vec_isa(), device_type="cpu", include_pytorch=False, shared=True
    )
    return CppBuilder(name="o", sources="i", BuildOption=options).get_command_line()


def load_together(kernels: Sequence[Kernel]) -> list[Function]:
    """Returns the functions of a graph's kernels, and compiles those that the cache has not."""
    if missing := {kernel.name: kernel for kernel in kernels if not kernel.file.exists()}:
        compile_together(missing)
    return [kernel.load() for kernel in kernels]


def compile_together(kernels: Mapping[str, Kernel]) -> None:
    """Compiles the kernels, by name, into one file, to which a link of each name leads."""
    lines = [line for kernel in kernels.values() for line in kernel.source.splitlines()]
    includes = dict.fromkeys(line for line in lines if line.lstrip().startswith("#include"))
    spaces = [namespace(name, kernel.source) for name, kernel in kernels.items()]
    built = Programs.load("\n".join([*includes, *spaces]), "cpu").path
    for kernel in kernels.values():
        kernel.file.parent.mkdir(exist_ok=True)
        beside = kernel.file.with_suffix(f".{os.getpid()}")
        beside.symlink_to(built)
        beside.replace(kernel.file)


def namespace(name: str, source: str) -> str:
    """Returns the kernel's source, less its includes, in a namespace of its own."""
    lines = [line for line in source.splitlines() if not line.lstrip().startswith("#include")]
    return "\n".join(
        [
            f"#define kernel {name}_kernel",
            f"namespace {name} {{",
            *lines,
            "}",
            "#undef kernel",
        ]
    )


def take_over() -> None:
    """Makes Inductor compile the kernels of a graph together, in this process."""
    wait = AsyncCompile.wait

    def put_off(_: AsyncCompile, argtypes: list[str], source: str) -> Kernel:
        return Kernel(argtypes, source)

    def finish(compiling: AsyncCompile, scope: dict[str, Any]) -> None:
        """Called at the end of a graph's code, whose names, kernels among them, are the scope."""
        kernels = {name: x for name, x in scope.items() if isinstance(x, Kernel)}
        scope |= zip(kernels, load_together([*kernels.values()]), strict=True)
        wait(compiling, scope)

    AsyncCompile.cpp_pybinding = put_off
    AsyncCompile.wait = finish
