"""Augmentation: from a policy string to float32 pixels, the same in NumPy, JAX and TensorFlow.

`policy` reads the string, `ops` has its operations, which draw parameters (`draws`) and apply formulas (`pixels`;
`autoaugment` combines them). All of it computes in an array namespace `xp`; `backends` knows how these differ.
"""
