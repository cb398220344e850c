"""The part of the package that is built: its kernels, where there is a C compiler."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "lastblock.decoder._kernels",
            [
                f"src/lastblock/decoder/{name}.c"
                for name in ("kernels", "few_rows", "trained_block")
            ],
            depends=[f"src/lastblock/decoder/{name}.h" for name in ("kernels", "few_rows")],
            extra_compile_args=["-O3", "-g0"],
            optional=True,  # without it torch does the same, slower
        )
    ]
)
