"""What has to be computed: the map from folders to packages, the C++ library, the README as a package index shows it.

All else is in pyproject.toml.
"""

import re
import sys
import zipfile
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

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


PACKED = "tanl.benchmarks.pictograms"
"""Thousands of small images: a wheel has them as one archive, which `benchmarks/data/packed.py` takes out."""


class PackedImages(build_py):
    """Puts the images of a package into an archive in place of a file each."""

    def find_data_files(self, package: str, src_dir: str) -> list[str]:
        found = super().find_data_files(package, src_dir)
        images = Path(src_dir, "images")
        return [each for each in found if package != PACKED or images not in Path(each).parents]

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            folder = Path(self.get_package_dir(PACKED))
            target = Path(self.build_lib, *PACKED.split("."))
            with zipfile.ZipFile(target / "packed.zip", "w") as archive:
                for path in sorted([folder / "manifest.csv", *folder.glob("images/**/*.webp")]):
                    entry = zipfile.ZipInfo(path.relative_to(folder).as_posix())  # the same bytes at any time
                    archive.writestr(entry, path.read_bytes())


class AnyPython(bdist_wheel):
    """One wheel for a platform serves every Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


SOURCE = None
"""The public address of the repository, once there is one, such as "https://example.org/owner/tanl"."""

_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?!https?:|mailto:|#)(?P<path>[^)\s]+)\)")


def for_an_index(readme: str, source: str | None) -> str:
    """README.md without links that lead nowhere from a package index.

    Links within the repository lead to its public address. Where there is none, they become the paths in the source
    archive, and pictures are left out.
    """

    def link(found: re.Match[str]) -> str:
        image, text, path = found["image"], found["text"], found["path"]
        if source is not None:
            return f"{image}[{text}]({source}/{'raw' if image else 'blob'}/HEAD/{path})"
        return "" if image else text if text == path else f"{text} (`{path}`)"

    shown = _LINK.sub(link, readme)
    return shown if source is not None else f"{shown}\nThe paths above are those of the source archive.\n"


def describe() -> dict[str, object]:
    """What is told of the project by this file."""
    return {
        "long_description": for_an_index(Path("README.md").read_text(encoding="utf-8"), SOURCE),
        "long_description_content_type": "text/markdown",
        "project_urls": {} if SOURCE is None else {"Source": SOURCE},
    }


if __name__ == "__main__":  # and not where tests read it
    setup(
        **describe(),
        packages=packages,
        package_dir={"tanl.corpora": "corpora", "tanl.benchmarks": "benchmarks"},
        include_package_data=True,
        ext_modules=[fused],
        cmdclass={"build_py": PackedImages, "build_ext": PlainLibrary, "bdist_wheel": AnyPython},
    )
