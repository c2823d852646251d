"""Metadata, dependencies and the map from folders to packages: the one place for each of them."""

from pathlib import Path

from setuptools import Extension, find_packages, setup

EXTRAS = {
    "bench": ["gdown>=5", "matplotlib>=3.7", "pytorch-ood>=0.4"],
    "faiss": ["faiss-cpu>=1.8"],
    "hf": ["transformers>=4.44"],
    "parquet": ["pyarrow>=14"],
    "pytorch-ood": ["pytorch-ood>=0.4"],
    "test": [
        "faiss-cpu>=1.8",
        "hypothesis>=6.90",
        "matplotlib>=3.7",
        "mypy>=1.11",
        "pyarrow>=14",
        "pytest>=8",
        "pytorch-ood>=0.4",
        "ruff>=0.6",
        "scikit-learn>=1.4",
        "transformers>=4.44",
        "triton>=3; platform_system == 'Linux'",  # its kernels are tested without a GPU
        "types-tqdm",
    ],
    # What remaking the shipped artefacts needs: the embedded model and the pictogram images.
    "train": [
        "resvg-py>=0.1.8",
        "scikit-image>=0.22",
        "scikit-learn>=1.4",
        "timm>=1.0.9",
        "transformers>=4.44",
    ],
}

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

setup(
    name="tanl",
    version="0.1.0",
    description="Training-free out-of-distribution detection for any vision-language model",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=packages,
    package_dir={"tanl.corpora": "corpora", "tanl.benchmarks": "benchmarks"},
    include_package_data=True,
    ext_modules=[fused],
    install_requires=[
        "numpy>=1.24",
        "open_clip_torch>=3.0",
        "Pillow>=10.1",
        "safetensors>=0.4.3",
        "scipy>=1.10",
        "torch>=2.2",
        "tqdm>=4.66",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["tanl = tanl.cli.main:main"]},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
