"""Ways to damage a sound file, and what `verify` says of each."""

import io

import h5py
import numpy as np
from PIL import Image


def write_column(group, name, values):
    del group[name]
    group.create_dataset(name, data=np.asarray(values))


def set_text(group, name, row, text):
    values = group[name][:].astype("S700" if name == "barcode" else "S40")
    values[row] = text
    write_column(group, name, values)


def resample(group, rows):
    """Keep rows of a split, in that order; a row may come twice."""
    for name in list(group):
        write_column(group, name, group[name][:][rows])


def copy_row(file, source, target):
    """Append the first row of one split to another."""
    for name in list(file[target]):
        values = [file[target][name][:], file[source][name][:1]]
        width = max(part.shape[-1] for part in values) if name == "image" else None
        if width:
            values = [np.pad(part, [(0, 0), (0, width - part.shape[1])]) for part in values]
        write_column(file[target], name, np.concatenate(values))


# Each takes an open file and damages one thing in it.


def drop_column(file):
    del file["val_seen/barcode"]


def drop_unread_column(file):
    del file["val_seen/processid"]


def turn_labels_into_numbers(file):
    write_column(file["val_seen"], "genus", np.zeros(len(file["val_seen/genus"])))


def widen_tokens(file):
    group = file["val_seen"]
    write_column(group, "language_tokens_input_ids", np.ones((len(group["genus"]), 21), int))


def shorten_column(file):
    write_column(file["val_seen"], "species", file["val_seen/species"][:-1])


def empty_used_split(file):
    resample(file["val_seen"], [])


def empty_unused_split(file):
    resample(file["single_species"], [])


def misspell_split(file):
    file.move("val_seen", "val_sen")


def lose_photo(file):
    file["val_seen/image"][3] = 0
    file["val_seen/image_mask"][3] = 0


def overstate_length(file):
    file["val_seen/image_mask"][3] = file["val_seen/image"].shape[1] + 1


def scramble_photo(file):
    file["val_seen/image"][3, :100] = 7


def cut_photo(file):
    length = file["val_seen/image_mask"][3]
    file["val_seen/image"][3, length // 2 :] = 0
    file["val_seen/image_mask"][3] = length // 2


def fill_padding(file):
    shortest = int(np.argmin(file["val_seen/image_mask"]))
    file["val_seen/image"][shortest, -1] = 1


def move_species_to_another_genus(file):
    genera = np.unique(file["val_seen/genus"])
    group = file["val_seen"]
    set_text(group, "genus", 0, genera[genera != group["genus"][0]][0])


def move_genus_to_another_family(file):
    families = np.unique(file["val_seen/family"])
    group = file["val_seen"]
    set_text(group, "family", 0, families[families != group["family"][0]][0])


def forget_genus(file):
    set_text(file["val_seen"], "genus", 3, b"not_classified")


def write_accent(file):
    set_text(file["val_seen"], "species", 3, "Aedes müller".encode())


def write_latin1(file):
    set_text(file["val_seen"], "species", 3, "Aedes müller".encode("latin-1"))


def repeat_specimen(file):
    rows = len(file["val_seen/genus"])
    resample(file["val_seen"], [*range(rows), 0])


def forget_id(file):
    set_text(file["val_seen"], "sampleid", 3, b"")


def leak_query_into_training(file):
    copy_row(file, "val_seen", "train_seen")
    copy_row(file, "val_seen", "no_split_and_seen_train")


def lose_key(file):
    resample(file["all_keys"], range(1, len(file["all_keys/genus"])))


def add_foreign_key(file):
    copy_row(file, "test_seen", "all_keys")


def train_on_unseen_species(file):
    group = file["no_split_and_seen_train"]
    set_text(group, "species", 3, file["test_unseen/species"][0])


def query_species_never_met(file):
    set_text(file["val_seen"], "species", 3, b"Nemo nusquam")


def empty_barcode(file):
    set_text(file["val_seen"], "barcode", 3, b"")


def misspell_barcode(file):
    set_text(file["val_seen"], "barcode", 3, b"ACGX" * 160)


def write_barcode_in_lower_case(file):
    set_text(file["val_seen"], "barcode", 3, b"acgt" * 160)


def shorten_barcode(file):
    set_text(file["val_seen"], "barcode", 3, b"ACGT" * 49)


def hide_token(file):
    file["val_seen/language_tokens_attention_mask"][3, 1] = 0


def drop_cls(file):
    file["val_seen/language_tokens_input_ids"][3, 0] = 500


def drop_sep(file):
    tokens = file["val_seen/language_tokens_input_ids"]
    tokens[3] = np.where(tokens[3] == 102, 500, tokens[3])


def give_one_row_other_tokens(file):
    file["val_seen/language_tokens_input_ids"][3, 1] += 1


def give_two_names_the_same_tokens(file):
    """In every split, so that each name still has one sequence of tokens."""
    first, second = np.unique(file["test_unseen/species"])[:2]
    row = np.flatnonzero(file["test_unseen/species"][:] == first)[0]
    tokens = file["test_unseen/language_tokens_input_ids"][row]
    for split in file:
        ids = file[split]["language_tokens_input_ids"]
        mask = file[split]["language_tokens_attention_mask"]
        for place in np.flatnonzero(file[split]["species"][:] == second):
            ids[place] = tokens
            mask[place] = tokens != 0


def turn_labels_into_integers(file):
    write_column(file["val_seen"], "species", np.arange(len(file["val_seen/genus"])))


def turn_labels_into_nan(file):
    write_column(file["all_keys"], "species", np.full(len(file["all_keys/genus"]), np.nan))


def turn_labels_into_a_struct(file):
    rows = len(file["val_seen/genus"])
    write_column(file["val_seen"], "genus", np.zeros(rows, dtype=[("name", "S9"), ("code", int)]))


def hang_a_link(file):
    del file["val_seen/barcode"]
    file["val_seen/barcode"] = h5py.SoftLink("/nowhere")


def link_to_another_file(file):
    del file["val_seen/barcode"]
    file["val_seen/barcode"] = h5py.ExternalLink("elsewhere.hdf5", "/val_seen/barcode")


def link_a_split_to_another_file(file):
    del file["val_seen"]
    file["val_seen"] = h5py.ExternalLink("elsewhere.hdf5", "/val_seen")


def store_elsewhere(file):
    values = file["val_seen/image"][:]
    del file["val_seen/image"]
    place = [(file.filename + ".raw", 0, values.nbytes)]
    file["val_seen"].create_dataset("image", values.shape, values.dtype, external=place)


def make_photo_lengths_2d(file):
    write_column(file["val_seen"], "image_mask", file["val_seen/image_mask"][:][:, None])


def nest_a_group(file):
    del file["val_seen/species"]
    file["val_seen"].create_group("species")


def name_a_type(file):
    del file["val_seen/species"]
    file["val_seen/species"] = np.dtype("S9")


def empty_dataspace(file):
    del file["val_seen/species"]
    file["val_seen/species"] = h5py.Empty("S9")


def damage_a_chunk(file):
    """As a disk may: the filter of a chunk finds what it cannot decompress."""
    values = file["val_seen/barcode"][:]
    del file["val_seen/barcode"]
    column = file["val_seen"].create_dataset("barcode", data=values, compression="gzip")
    column.id.write_direct_chunk((0,), b"not compressed")


def exceed_vocabulary(file):
    file["val_seen/language_tokens_input_ids"][3, 1] = 30_522


def forget_a_feature(file):
    rows = len(file["val_seen/genus"])
    features = np.zeros((rows, 768), np.float32)
    features[3, 5] = np.nan
    file["val_seen/dna_features"] = features


def steer_the_terminal(file):
    set_text(file["val_seen"], "species", 3, b"Aedes \x1b[31mred")


def lose_keys(file):
    del file["all_keys"]


def lose_queries(file):
    for split in ("val_seen", "val_unseen", "test_seen", "test_unseen"):
        del file[split]


def write_photo(file, picture, kind):
    """Put a picture into row 3, in a file of rows that are wide enough."""
    content = io.BytesIO()
    picture.save(content, kind)
    photo, images = np.frombuffer(content.getvalue(), np.uint8), file["val_seen/image"][:]
    images = np.pad(images, [(0, 0), (0, max(0, len(photo) - images.shape[1]))])
    images[3] = 0
    images[3, : len(photo)] = photo
    write_column(file["val_seen"], "image", images)
    file["val_seen/image_mask"][3] = len(photo)


def photo_of_16_bits(file):
    write_photo(file, Image.fromarray(np.full((40, 40), 40_000, np.uint16)), "PNG")


def photo_like_a_thread(file):
    write_photo(file, Image.new("RGB", (65_500, 1)), "JPEG")


def photo_like_a_bomb(file):
    write_photo(file, Image.new("1", (15_000, 12_000)), "PNG")


def animated_photo(file):
    write_photo(file, Image.new("RGB", (40, 40)), "GIF")


DAMAGE = [
    (drop_column, "error", "layout", "val_seen", [], "lacks the column barcode"),
    (drop_unread_column, "warning", "layout", "val_seen", [], "lacks the column processid"),
    (turn_labels_into_numbers, "error", "layout", "val_seen", [], "genus: it should be bytes"),
    (widen_tokens, "error", "layout", "val_seen", [], "should be integers, shape (N, 20)"),
    (shorten_column, "error", "layout", "val_seen", [], "differ in their number of rows"),
    (empty_used_split, "error", "layout", "val_seen", [], "holds no specimens"),
    (empty_unused_split, "warning", "layout", "single_species", [], "holds no specimens"),
    (misspell_split, "warning", "layout", "val_sen", [], "no split of the name val_sen"),
    (misspell_split, "warning", "layout", None, [], "but val_seen is not there"),
    (lose_photo, "error", "photos", "val_seen", [3], "there is no photo"),
    (overstate_length, "error", "photos", "val_seen", [3], "more than a row of image holds"),
    (scramble_photo, "error", "photos", "val_seen", [3], "does not decode"),
    (cut_photo, "error", "photos", "val_seen", [3], "does not decode"),
    (fill_padding, "warning", "photos", "val_seen", None, "bytes other than zero"),
    (move_species_to_another_genus, "error", "labels", None, [], "1 species stands in more than"),
    (move_genus_to_another_family, "warning", "labels", None, [], "1 genus stands in more than"),
    (forget_genus, "warning", "labels", "val_seen", [3], "its genus is unknown"),
    (write_accent, "warning", "labels", "val_seen", [3], "outside ASCII (such as Aedes müller)"),
    (
        write_latin1,
        "warning",
        "labels",
        "val_seen",
        [3],
        "not valid UTF-8 (such as Aedes m\\xfcller)",
    ),
    (repeat_specimen, "error", "splits", "val_seen", None, "occurred before in the same split"),
    (forget_id, "error", "splits", "val_seen", [3], "the sampleid is empty"),
    (leak_query_into_training, "error", "splits", "train_seen", None, "also in val_seen"),
    (lose_key, "error", "splits", "seen_keys", None, "not in all_keys"),
    (add_foreign_key, "error", "splits", "all_keys", None, "none of the parts of all_keys"),
    (train_on_unseen_species, "error", "splits", "test_unseen", None, "should be unseen"),
    (query_species_never_met, "warning", "splits", "val_seen", [3], "seen_keys does not have it"),
    (empty_barcode, "error", "barcodes", "val_seen", [3], "the barcode is empty"),
    (misspell_barcode, "error", "barcodes", "val_seen", [3], "neither bases nor IUPAC codes"),
    (write_barcode_in_lower_case, "warning", "barcodes", "val_seen", [3], "lower-case bases"),
    (shorten_barcode, "warning", "barcodes", "val_seen", [3], "fewer than 200 bases"),
    (hide_token, "error", "tokens", "val_seen", [3], "the attention mask is not 1"),
    (drop_cls, "error", "tokens", "val_seen", [3], "do not begin with [CLS]"),
    (drop_sep, "error", "tokens", "val_seen", [3], "have no [SEP]"),
    (give_one_row_other_tokens, "error", "tokens", None, [], "1 name has different tokens"),
    (give_two_names_the_same_tokens, "warning", "tokens", None, [], "have the same tokens"),
    (turn_labels_into_integers, "error", "layout", "val_seen", [], "species: it should be bytes"),
    (turn_labels_into_nan, "error", "layout", "all_keys", [], "species: it should be bytes"),
    (turn_labels_into_a_struct, "error", "layout", "val_seen", [], "genus: it should be bytes"),
    (hang_a_link, "error", "layout", "val_seen", [], "barcode cannot be opened"),
    (link_to_another_file, "error", "layout", "val_seen", [], "barcode is a link to another file"),
    (link_a_split_to_another_file, "error", "layout", None, [], "val_seen is a link to another"),
    (store_elsewhere, "error", "layout", "val_seen", [], "image keeps its values in other files"),
    (make_photo_lengths_2d, "error", "layout", "val_seen", [], "image_mask: it should be integers"),
    (nest_a_group, "error", "layout", "val_seen", [], "species: it should be bytes"),
    (name_a_type, "error", "layout", "val_seen", [], "species: it should be bytes"),
    (empty_dataspace, "error", "layout", "val_seen", [], "species: it should be bytes"),
    (damage_a_chunk, "error", "layout", "val_seen", [], "barcode cannot be read"),
    (exceed_vocabulary, "error", "tokens", "val_seen", [3], "not in BERT's vocabulary"),
    (forget_a_feature, "error", "layout", "val_seen", [3], "dna_features holds values that are no"),
    (steer_the_terminal, "warning", "labels", "val_seen", [3], "control characters"),
    (lose_keys, "error", "layout", None, [], "no keys (all_keys), so nothing can be scored"),
    (lose_queries, "error", "layout", None, [], "no queries (test_seen or test_unseen or val_s"),
    (photo_of_16_bits, "warning", "photos", "val_seen", [3], "16 bits per value"),
    (photo_like_a_thread, "error", "photos", "val_seen", [3], "does not decode"),
    (photo_like_a_bomb, "error", "photos", "val_seen", [3], "does not decode"),
    (animated_photo, "error", "photos", "val_seen", [3], "does not decode"),
]
