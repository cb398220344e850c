"""The part of the package that is built: its kernels, where there is a C compiler."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "lastblock.decoder._kernels",
            ["src/lastblock/decoder/kernels.c", "src/lastblock/decoder/few_rows.c"],
            depends=["src/lastblock/decoder/kernels.h"],
            extra_compile_args=["-O3", "-g0"],
            optional=True,  # without it torch does the same, slower
        )
    ]
)
