"""The part of the package that is built: its kernels, where there is a C compiler."""

import os

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError


class BuildKernels(build_ext):
    """Without matrix tiles, where the assembler does not know what the compiler says of them."""

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except CompileError:
            ext.define_macros.append(("NO_TILES", "1"))
            super().build_extension(ext)


setup(
    cmdclass={"build_ext": BuildKernels},
    ext_modules=[
        Extension(
            "lastblock.decoder._kernels",
            [
                f"src/lastblock/decoder/{name}.c"
                for name in ("kernels", "int8", "keys", "few_rows", "trained_block", "trained_tail")
            ],
            depends=[
                f"src/lastblock/decoder/{name}.h"
                for name in ("kernels", "tiles", "int8", "keys", "few_rows", "trained_block")
            ],
            # Where a product and a sum are rounded as one is for the code to say, or the last bits
            # would be the compiler's.
            extra_compile_args=["-O3", "-g0", "-ffp-contract=off"],
            libraries=["m"] if os.name == "posix" else [],
            optional=True,  # without it torch does the same, slower
        )
    ],
)
