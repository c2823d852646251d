"""``tanl cache``: the embeddings that are kept, and how to be rid of them."""

from __future__ import annotations

import argparse

from ..io.text import did_you_mean, one_line, shown_path

_DESCRIPTION = """\
Embeddings of words are kept, so that a model embeds them once: whatever the classes, a corpus costs its time in the
first run alone. They are in the folder that TANL_CACHE names, else in the user's cache folder."""

_EPILOG = """\
examples:
  tanl cache list
  tanl cache clear --backbone ViT-B-16/openai
  tanl cache clear --all

exit codes: 0 done; 2 a mistake in what was asked for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("action", choices=("list", "clear"), help="show what is kept, or delete it")
    parser.add_argument(
        "--backbone", metavar="NAME", help="with clear: delete what this model's texts are, as list shows it"
    )
    parser.add_argument("--all", action="store_true", help="with clear: delete everything that is kept")


def main(arguments: argparse.Namespace) -> int:
    """Carry the command out and return its exit code."""
    from ..io.cache import default_cache_dir
    from ..io.cache_files import kept_in, take_away

    cache = default_cache_dir()
    kept = kept_in(cache)
    if arguments.action == "list":
        if arguments.backbone is not None or arguments.all:
            raise ValueError("--backbone and --all say what clear is to delete; list shows everything")
        for each in kept:
            held = f"{each.texts} texts" if each.texts else f"{len(each.files)} files"
            print(one_line(f"{each.size / 1e6:9.1f} MB  {held:>15}  {each.backbone or each.what}"))
        print(f"{sum(each.size for each in kept) / 1e6:9.1f} MB  in {shown_path(cache)}")
        return 0
    if (arguments.backbone is None) is not arguments.all:
        raise ValueError("say what to delete: --backbone NAME, or --all")
    names = {each.backbone for each in kept if each.backbone}
    if arguments.backbone is not None and arguments.backbone not in names:
        raise ValueError(
            f"nothing is kept of a model {arguments.backbone!r}; there are "
            f"{', '.join(sorted(names)) or 'no texts of any'}{did_you_mean(arguments.backbone, names)}"
        )
    chosen = [each for each in kept if arguments.all or each.backbone == arguments.backbone]
    for each in chosen:
        take_away(each)
    print(f"{sum(each.size for each in chosen) / 1e6:.1f} MB deleted in {shown_path(cache)}")
    return 0
