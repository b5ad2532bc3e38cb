"""The command line: `python -m colorize_utils prepare DATA` makes pictures ready for training."""

import argparse
import re

from colorize_utils.data import load_images


def prepare(options) -> None:
    images = load_images(options.data, options.root, image_size=options.image_size)
    for part, pictures in images._asdict().items():
        size, megabytes = tuple(pictures.shape[2:]), pictures.nbytes / 1e6
        print(f"{part:>10}: {len(pictures):,} pictures of {size}, {megabytes:,.0f} MB")


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(prog="python -m colorize_utils")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("prepare", help="decode pictures once, on all cores, into a store")
    command.add_argument("data", help="sample, cifar10, cifar100, dogs-vs-cats, or a folder or zip")
    command.add_argument("--image-size", type=int, default=32, help="side of the squares in pixels (32)")
    command.add_argument("--root", default="data", help="where data sets lie, and the store goes (data)")
    command.set_defaults(run=prepare)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (OSError, ValueError, AssertionError) as error:
        says = re.sub(r"^\[\w+ \d+\] ", "", str(error))  # the number tells nobody anything
        says = re.sub(r"\bimage_size\b( ?= ?)?", lambda m: "--image-size" + " " * bool(m[1]), says)
        parser.exit(1, f"{says}\n")
    except KeyboardInterrupt:
        parser.exit(130, "stopped: run the same command again to prepare them\n")


if __name__ == "__main__":
    main()
