import gzip
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from projects.bioscan_clip.datasets.hdf5 import open_file
from projects.bioscan_clip.inference.inputs import TABLE_COLUMNS, photo_of, read_inputs


def photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)
    return path


def test_photos_folders_and_patterns(tmp_path):
    files = [photo(tmp_path / "a" / "1.jpg"), photo(tmp_path / "a" / "b" / "2.PNG")]
    (tmp_path / "a" / "notes.doc").write_text("")
    by_folder = read_inputs([str(tmp_path / "a")])
    assert by_folder["photo"].tolist() == [str(file) for file in files]
    assert by_folder["image_file"].tolist() == ["1.jpg", "2.PNG"]
    assert list(by_folder) == list(TABLE_COLUMNS)
    assert by_folder["barcode"].isna().all()
    by_pattern = read_inputs([str(tmp_path / "a" / "**" / "*.PNG"), str(files[0])])
    assert by_pattern["id"].tolist() == [str(files[1]), str(files[0])]


def test_a_list_on_the_standard_input(tmp_path, monkeypatch):
    files = [photo(tmp_path / f"{number}.jpg") for number in range(3)]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(map(str, files)) + "\n\n"))
    assert read_inputs(["-"])["photo"].tolist() == [str(file) for file in files]


def test_a_table_of_bold(tmp_path):
    """Columns as in BOLD's BCDM: nuc, bin_uri, country/ocean; None for what is unknown."""
    (tmp_path / "bold.tsv").write_text(
        "processid\tsampleid\tbin_uri\tnuc\torder\tfamily\tgenus\tspecies\tcountry/ocean\n"
        "P1\tS1\tBOLD:AAA1\tacgt\tDiptera\tCulicidae\tAedes\tAedes aegypti\tKenya\n"
        "P2\tS2\tNone\tACGTT\tDiptera\tNone\t\tNone\tPeru\n"
    )
    table = read_inputs([str(tmp_path / "bold.tsv")])
    assert table["id"].tolist() == table["sampleid"].tolist() == ["S1", "S2"]
    assert table["barcode"].tolist() == ["acgt", "ACGTT"]
    assert table["place"].tolist() == ["Kenya", "Peru"]
    assert table["species"].tolist()[0] == "Aedes aegypti"
    assert table.loc[1, ["bin", "family", "genus", "species"]].isna().all()


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_photos_of_a_table_are_beside_it_or_in_a_folder(tmp_path, ending):
    path = tmp_path / f"t.{ending}"
    raw = pd.DataFrame({"Image": ["x.jpg", None], "Barcode": ["ACGT", "AC"], "id": ["a", "b"]})
    if ending == "parquet":
        raw.to_parquet(path)
    else:
        raw.to_csv(path, sep="," if ending == "csv" else "\t", index=False)
    table = read_inputs([str(path)])
    assert table["photo"].tolist()[0] == str(tmp_path / "x.jpg")
    assert pd.isna(table["photo"][1])
    assert table["id"].tolist() == ["a", "b"]
    assert read_inputs([str(path)], photos=tmp_path / "p")["photo"][0] == str(tmp_path / "p/x.jpg")


@pytest.mark.parametrize("compressed", [False, True])
def test_fasta_with_a_table_of_names(tmp_path, compressed):
    text = b">q1 from a trap\nACGT\nACG\n>q2\nTTTT\n"
    path = tmp_path / ("s.fasta.gz" if compressed else "s.fa")
    path.write_bytes(gzip.compress(text) if compressed else text)
    (tmp_path / "names.tsv").write_text("record\tgenus\tspecies\nq1\tAedes\tAedes aegypti\n")
    table = read_inputs([str(path)], taxonomy=tmp_path / "names.tsv")
    assert table["barcode"].tolist() == ["ACGTACG", "TTTT"]
    assert table["id"].tolist() == ["q1", "q2"]
    assert table["species"][0] == "Aedes aegypti"
    assert pd.isna(table["genus"][1])


def test_fastq(tmp_path):
    (tmp_path / "s.fastq").write_text("@r1\nACGT\n+\nIIII\n")
    assert read_inputs([str(tmp_path / "s.fastq")])["barcode"].tolist() == ["ACGT"]


def test_a_split_of_a_file(sample_file):
    table = read_inputs([f"{sample_file}::test_seen"])
    with open_file(sample_file) as file:
        group = file["test_seen"]
        assert table["barcode"].tolist() == [text.decode() for text in group["barcode"][:]]
        assert table["sampleid"].tolist() == [text.decode() for text in group["sampleid"][:]]
        assert table["bin"].tolist() == [text.decode() for text in group["uri"][:]]
        jpeg = group["image"][3, : group["image_mask"][3]].tobytes()
    assert photo_of(table["photo"][3]) == jpeg
    pd.testing.assert_frame_equal(read_inputs([str(sample_file)], split="test_seen"), table)


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("missing.jpg", None, "neither a file nor a pattern"),
        ("thesis.docx", b"", "no known kind"),
        ("t.csv", b"name,colour\na,red\n", "no column of photos"),
        ("t.csv", b"", "cannot be read as a table"),
        ("s.fasta", b"no header\n", "no FASTA or FASTQ"),
        ("s.fasta", b"", "names no specimens|no FASTA"),
    ],
)
def test_bad_input_is_named(tmp_path, name, content, error):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=error) as raised:
        read_inputs([str(path)])
    assert name in str(raised.value)


def test_a_split_must_be_named_and_be_there(sample_file, tmp_path):
    with pytest.raises(ValueError, match=r"Name a split.*test_seen"):
        read_inputs([str(sample_file)])
    with pytest.raises(ValueError, match="no split 'nope'"):
        read_inputs([f"{sample_file}::nope"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no photos"):
        read_inputs([str(tmp_path / "empty")])


def test_names_are_not_given_twice(tmp_path):
    (tmp_path / "s.fa").write_text(">a\nACGT\n")
    (tmp_path / "names.csv").write_text("id,species\na,x\na,y\n")
    with pytest.raises(ValueError, match="names a twice"):
        read_inputs([str(tmp_path / "s.fa")], taxonomy=tmp_path / "names.csv")


def test_rows_without_an_id_are_numbered(tmp_path):
    (tmp_path / "t.csv").write_text("barcode\nACGT\nAC\n")
    assert read_inputs([str(tmp_path / "t.csv")])["id"].tolist() == ["t.csv, row 1", "t.csv, row 2"]
    assert np.isin(TABLE_COLUMNS, list(read_inputs([str(tmp_path / "t.csv")]))).all()
