"""The Triton kernels, one file an operation, each with its wrapper.

Importing one of them imports Triton, and settles whether its kernel is compiled or interpreted.
"""
