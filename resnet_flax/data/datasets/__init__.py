"""Datasets as uint8 arrays: those known by name, and a user's own folders of images or arrays.

`sources` is the registry; `folders`, `images` and `pickles` read a user's own files; `arrays` keeps decoded data on
disk; `splits` are parts of it such as train[:90%]; `load` puts it all together, and `fingerprint` tells data apart.
"""
