"""The command line: `python -m colorize_utils prepare DATA` makes pictures ready for training."""

import argparse

from colorize_utils.data import load_images


def prepare(arguments) -> None:
    images = load_images(
        arguments.data, arguments.root, image_size=arguments.image_size, skip_grey=arguments.skip_grey
    )
    for part, pictures in images._asdict().items():
        print(
            f"{part:>10}: {len(pictures):,} pictures of {tuple(pictures.shape[2:])}, {pictures.nbytes / 1e6:,.0f} MB"
        )


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(prog="python -m colorize_utils")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "prepare",
        help="decode pictures once, on all cores, into a store on the disk; goes on where it stopped",
    )
    command.add_argument(
        "data",
        help="sample, cifar10, cifar100, dogs-vs-cats, or the path of a folder or zip of pictures",
    )
    command.add_argument("--image-size", type=int, default=32, help="side of the squares in pixels (32)")
    command.add_argument("--root", default="data", help="where data sets lie, and the store goes (data)")
    command.add_argument("--skip-grey", action="store_true", help="leave out pictures without colour")
    parsed = parser.parse_args(arguments)
    try:
        prepare(parsed)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "stopped: run the same command again to go on\n")


if __name__ == "__main__":
    main()
