"""What a user meets first: a cheap import, the public names, typing."""

import subprocess
import sys
from importlib import metadata, resources

import tanl


def test_import_loads_nothing_heavy():
    code = (
        "import sys, tanl, tanl.labels.corpus, tanl.cli\n"
        "print([m for m in ('torch', 'open_clip', 'numpy', 'PIL') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_public_name_is_there_and_documented():
    for name in tanl.__all__:
        value = getattr(tanl, name)
        assert name == "__version__" or value.__doc__, name
        assert name in dir(tanl)
    assert not hasattr(tanl, "no_such_name")


def test_version_is_the_installed_one():
    assert tanl.__version__ == metadata.version("tanl")


def test_package_is_typed_and_carries_its_data():
    assert resources.files("tanl").joinpath("py.typed").is_file()
    assert resources.files("tanl.corpora").joinpath("wordnet.tsv.gz").is_file()
    assert resources.files("tanl.corpora").joinpath("WORDNET_LICENSE.txt").is_file()
