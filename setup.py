"""Builds the native kernels: one shared library of plain C, loaded through ctypes (slimctr/native)."""

import os
import shutil
import sys
import sysconfig

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class BuildKernels(build_ext):
    """Compile with the system's C compiler, else with the one inside the `ziglang` wheel."""

    def build_extensions(self) -> None:
        """Choose the compiler, then build."""
        system_compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
        if shutil.which(system_compiler) is None:
            # Zig compiles for this very CPU unless told otherwise; a wheel must run on any.
            zig = [sys.executable, "-m", "ziglang", "cc", "-mcpu=baseline"]
            self.compiler.set_executables(
                compiler_so=[*zig, "-fPIC"], linker_so=[*zig, "-shared"], compiler=zig
            )
        super().build_extensions()


setup(
    ext_modules=[
        Extension(
            "slimctr.native._kernels",
            sources=[
                f"slimctr/native/{name}.c"
                for name in (
                    "lookup",
                    "network",
                    "keys",
                    "json",
                    "json_pieces",
                    "arrow",
                    "arrow_messages",
                    "ids",
                    "scores",
                    "delimited",
                )
            ],
            depends=[
                f"slimctr/native/{name}.h"
                for name in ("kernels", "codes", "records", "masked", "keys", "arrow")
            ],
            libraries=["m"],
            extra_compile_args=[
                "-O3",
                "-std=c11",
                "-ffp-contract=off",
                "-fno-math-errno",
                "-Wall",
                "-Wextra",
                "-Wno-psabi",  # vectors are passed between inlined functions only
            ],
        )
    ],
    cmdclass={"build_ext": BuildKernels},
)
