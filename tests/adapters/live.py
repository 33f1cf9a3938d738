"""The bytes of tensors that are alive at once, on any device."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class Live(TorchDispatchMode):
    """Counts the storages made inside the `with`, until they are freed; `peak` is the most."""

    def __init__(self):
        super().__init__()
        self.now = 0
        self.peak = 0
        self.known = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        inputs = [x for x in tree_iter((args, kwargs or {})) if isinstance(x, torch.Tensor)]
        before = {x.untyped_storage()._cdata for x in inputs}
        found = func(*args, **(kwargs or {}))
        for x in tree_iter(found):
            if isinstance(x, torch.Tensor):
                self.add(x.untyped_storage(), before)
        return found

    def add(self, storage, before):
        key = storage._cdata
        if key in self.known or key in before:
            return
        self.known.add(key)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.drop, key, size)

    def drop(self, key, size):
        self.known.discard(key)
        self.now -= size
