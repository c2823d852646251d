"""What has to be computed: the map from folders to packages, and the C++ library. All else is in pyproject.toml."""

import sys

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

packages = find_packages(include=["tanl", "tanl.*"])
packages += ["tanl.corpora", "tanl.benchmarks"]
packages += [f"tanl.benchmarks.{name}" for name in find_packages("benchmarks")]

# The CPU kernels: a plain C library without Python or torch in it, loaded with ctypes. Optional: without a compiler
# that takes it, installation goes on, and torch does the same work. Instruction sets are chosen at run time, so
# no flag names a processor.
fused = Extension(
    "tanl.kernels.native._fused",
    sources=["tanl/kernels/native/fused.cpp"],
    depends=["tanl/kernels/native/variant.inc"],
    language="c++",
    extra_compile_args=[
        "-std=c++17",
        "-O3",
        "-pthread",
        "-ffp-contract=fast",
        "-ffinite-math-only",
        "-fno-math-errno",
        "-fno-signed-zeros",
        "-fno-trapping-math",
    ],
    extra_link_args=["-pthread"],
    optional=True,
)


class PlainLibrary(build_ext):
    """Names the library without a version of Python, since it works with all of them."""

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", "/") + (".pyd" if sys.platform == "win32" else ".so")


class AnyPython(bdist_wheel):
    """One wheel for a platform serves every Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    packages=packages,
    package_dir={"tanl.corpora": "corpora", "tanl.benchmarks": "benchmarks"},
    include_package_data=True,
    ext_modules=[fused],
    cmdclass={"build_ext": PlainLibrary, "bdist_wheel": AnyPython},
)
