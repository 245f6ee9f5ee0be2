"""Integers: the sizes and places of tiles, cores, blocks, shards and levels. numpy and the standard library only."""
