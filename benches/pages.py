"""What the two makers of pages share."""

import argparse
import json
import pathlib


def read(doc, names):
    """What was measured of `names`, in their order, from the directory that the command line names; and where the page goes."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("docs", type=pathlib.Path)
    arguments = parser.parse_args()
    found = ((name, arguments.results / f"{name}.json") for name in names)
    return {name: json.loads(file.read_text()) for name, file in found if file.exists()}, arguments.docs
