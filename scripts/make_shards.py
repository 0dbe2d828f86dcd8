"""Pack class folders of images into tar shards, or index shards that are there; see `--help`."""

import sys

from sharding.flags import PROGRAM, Flags
from sharding.indexing import index
from sharding.packing import pack

from common.command import cli
from pretrain.data.shards import ShardSet

DESCRIPTION = f"""Pack images in class folders into tar shards for WebDataset and `pretrain train`.

Writes OUT/SPLIT/imagenet-SPLIT-000000.tar and so on, and OUT/SPLIT/index.json; OUT then serves as
--data of any recipe that reads ImageNet; or Tiny ImageNet, if DATA is that as it was published.
Images are shuffled over the shards by a fixed seed. The same images give the same shards; a call
that was interrupted is resumed.

example: {PROGRAM} --data imagenet --out shards --split train

With --index DIR: write DIR/index.json for the tar files that lie in DIR, with members KEY.jpg (or
another format that is read) and KEY.cls, the number of the class. Classes are called by their
numbers. Where the names of the files tell a split (imagenet1k-train-0000.tar, -validation-), each
has its own index, DIR/index-train.json and so on, and DIR serves as --data.

example: {PROGRAM} --index shards/train"""


def run(argv: list[str]) -> None:
    """Pack or index, and say what there is now."""
    flags = cli.parse(Flags, argv, PROGRAM, DESCRIPTION)
    made: list[ShardSet] = []
    if flags.data and flags.out:
        made = [pack(flags, flags.data, flags.out)]
    elif flags.index:
        made = index(flags.index, flags.workers)
    for found in made:
        size = sum(shard.bytes for shard in found.shards)
        print(
            f"{found.folder}: {len(found.labels):,} images of {len(found.classes)} classes in "
            f"{len(found.shards)} shards from {found.shards[0].name} on, {size:,} bytes"
        )


def main() -> int:
    """Run the command."""
    return cli.dispatch(PROGRAM, {"make": run}, DESCRIPTION, ["make", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
