"""The right to work on a slide: a lease beside its store, on a file system or in a bucket."""
