"""Data files of packages: found, checked, refused; parsers on small texts."""

import gzip

import pytest
import torch

from grammar.errors import DataError
from search.data import package, splits, table, timeseries
from search.tasks import digits


def test_a_missing_package_prints_the_line_that_installs_it() -> None:
    with pytest.raises(DataError) as caught:
        package.read("no-such-data-package", ("x.csv",), "0" * 64)
    assert "'no-such-data-package' is not installed" in caught.value.render()
    assert "pip install --no-deps -r requirements-data.txt" in caught.value.render()
    with pytest.raises(DataError, match="not installed"):
        package.names("no-such-data-package", lambda path: True)


def test_another_checksum_is_refused_with_both_sums() -> None:
    with pytest.raises(DataError) as caught:
        package.read("scikit-learn", (digits.PATH,), "0" * 64)
    assert digits.SHA256 in caught.value.message
    assert "0" * 64 in caught.value.message
    assert package.INSTALL in caught.value.hint


def test_a_missing_file_of_an_installed_package_is_a_data_error() -> None:
    with pytest.raises(DataError, match="cannot be read"):
        package.read("scikit-learn", ("sklearn/no_such_file.csv",), "0" * 64)


def test_provenance_names_package_version_and_sum() -> None:
    found = package.read("scikit-learn", (digits.PATH,), digits.SHA256)
    name, version, digest = found.provenance.split()
    assert (name, digest) == ("scikit-learn", f"sha256:{digits.SHA256}")
    assert version[0].isdigit()


def test_shuffled_parts_are_disjoint_and_depend_on_the_seed() -> None:
    first = splits.shuffled(100, (60, 30), seed=1)
    assert [len(part) for part in first] == [60, 30]
    assert len(set(torch.cat(first).tolist())) == 90
    assert torch.equal(first[0], splits.shuffled(100, (60, 30), seed=1)[0])
    assert not torch.equal(first[0], splits.shuffled(100, (60, 30), seed=2)[0])
    with pytest.raises(ValueError, match="cannot give"):
        splits.shuffled(10, (8, 3), seed=0)


def test_a_stratified_part_holds_its_fraction_of_each_class() -> None:
    labels = torch.tensor([0] * 30 + [1] * 10 + [2] * 5)
    rest, part = splits.stratified(labels, 0.2, seed=0)
    assert torch.bincount(labels[part]).tolist() == [6, 2, 1]
    assert sorted(torch.cat([rest, part]).tolist()) == list(range(45))


def test_a_table_is_read_gzipped_or_plain_and_its_shape_is_checked() -> None:
    text = b"1,2,3\n4,5,6\n"
    expected = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert torch.equal(table.parse(text, rows=2, columns=3), expected)
    assert torch.equal(table.parse(gzip.compress(text), rows=2, columns=3), expected)
    with pytest.raises(DataError, match=r"shape \(2, 3\), expected \(3, 3\)"):
        table.parse(text, rows=3, columns=3)


SERIES = b"#note\n@classLabel true 1 2\n@data\n1,2,3:4,5,6:2\n7,8:9,10:1\n"


def test_series_keep_their_own_lengths_and_pad_with_zero_rows() -> None:
    cases, labels = timeseries.parse(SERIES, classes=2, cases=2)
    assert labels.tolist() == [1, 0]
    assert cases[0].tolist() == [[1, 4], [2, 5], [3, 6]]
    out = timeseries.padded(cases, 4)
    assert out.shape == (2, 4, 2)
    assert (out != 0).any(-1).sum(1).tolist() == [3, 2]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (SERIES + b"1,x:2,3:1\n", "not a time-series file"),
        (SERIES + b"1:2:1\n", "3 time series, expected 2"),
        (SERIES.replace(b"10:1", b"10:9"), "classes"),
    ],
)
def test_broken_series_are_refused(text: bytes, fault: str) -> None:
    with pytest.raises(DataError, match=fault):
        timeseries.parse(text, classes=2, cases=2)


def test_a_real_row_of_zeros_is_never_taken_for_padding() -> None:
    with pytest.raises(DataError, match="cannot be padded"):
        timeseries.padded([torch.tensor([[1.0], [0.0], [2.0]])], 5)
    with pytest.raises(DataError, match="cannot be padded"):
        timeseries.padded([torch.ones(6, 1)], 5)
