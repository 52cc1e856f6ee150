"""Processes that need not import torch: they are forked from one that has.

A server that has imported it once, and runs no thread, forks: a process starts in no time, and is
a real one. multiprocessing has one such server, so the list is that of all tests.
"""

import multiprocessing

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "open_clip",
        "pandas",  # which pyarrow imports, if it is there
        "clipfeat.cli.main",
        "clipfeat.extract.backbones.weights_file",
        "clipfeat.extract.executors.processes",
        "clipfeat.train.tasks.captioning.training",
        "clipfeat.train.tasks.pretraining.task",
        "clipfeat.train.tasks.vqa",
    ]
)
