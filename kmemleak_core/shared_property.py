"""Turns a method into an attribute that is made when first wanted, the same one for all threads."""

from __future__ import annotations

from functools import cached_property
from typing import Any, TypeVar, overload

T = TypeVar("T")


class shared_property(cached_property[T]):  # noqa: N801 - a decorator, named as its base is
    """A `functools.cached_property` of which every thread sees one and the same value.

    That one has had no lock since Python 3.12: of threads that ask at the same time each gets a
    value of its own. Walks over the parts of a heap, on several threads, are joined only if they
    were over the very same view of the memory. No lock is needed here either: the value may be
    made several times, but the first one to be stored is everybody's.
    """

    @overload
    def __get__(self, instance: None, owner: type[Any] | None = None) -> shared_property[T]: ...
    @overload
    def __get__(self, instance: object, owner: type[Any] | None = None) -> T: ...
    def __get__(self, instance: object | None, owner: type[Any] | None = None) -> Any:
        if instance is None:
            return self
        assert self.attrname is not None
        return instance.__dict__.setdefault(self.attrname, self.func(instance))
