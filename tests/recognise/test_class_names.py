"""What a C++ class is called, from its mangled name."""

from __future__ import annotations

import pytest

from kmemleak_core.recognise import cxx_names
from kmemleak_core.recognise.cxx_names import class_name

PLAIN = {
    "3Foo": "Foo",
    "N3foo3BarE": "foo::Bar",
    "N12_GLOBAL__N_13FooE": "(anonymous)::Foo",
    "Z4mainE5Local": "main::Local",
}
NEED_EXTRA = {
    "N3app3BoxIiEE": "app::Box<int>",
    "3BoxINSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEEE": "Box<std::string>",
    "3BoxISt6vectorIiSaIiEEE": "Box<std::vector<int>>",
    "3BoxISt3mapIiiSt4lessIiESaISt4pairIKiiEEEE": "Box<std::map<int, int>>",
    "St23_Sp_counted_ptr_inplaceI3FooSaIvELN9__gnu_cxx12_Lock_policyE2EE": (
        "std::make_shared<Foo>"
    ),
    "St15_Sp_counted_ptrIP3FooLN9__gnu_cxx12_Lock_policyE2EE": "std::shared_ptr<Foo> count",
    "Z4workPKcE5Local_0": "work(char const*)::Local",
}
#: Not names, or too intricate ones: they stay.
STAY = ["", "9Foo", "N3Foo", "N3foo", "0", "N" * 100, "1" * 300, "Z" + "E" * 200]


@pytest.mark.parametrize(("mangled", "name"), PLAIN.items())
def test_plain_names_are_read_without_the_extra(
    mangled: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cxx_names, "demangled", lambda name: name)
    found = class_name(mangled)
    assert found.replace("_Z4main", "main") == name


@pytest.mark.parametrize(("mangled", "name"), [*PLAIN.items(), *NEED_EXTRA.items()])
def test_usual_arguments_are_left_out(mangled: str, name: str) -> None:
    pytest.importorskip("itanium_demangler")
    assert class_name(mangled) == name


@pytest.mark.parametrize("mangled", STAY)
def test_what_is_no_name_stays_and_is_not_too_long(mangled: str) -> None:
    assert class_name(mangled)[:200] == mangled[:200]
    assert len(class_name(mangled)) <= 240
