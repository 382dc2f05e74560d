"""Why a row or a file is refused: codes, each with one sentence, for the terminal, reports and comments.

A code stands for itself: no text of a row is ever part of it."""

# Of files: nothing of such a file passes.
FILES: dict[str, str] = {
    "too_many_files": "There are more files than a contribution may hold.",
    "too_many_bytes": "The files together are larger than a contribution may be.",
    "too_many_rows": "There are more rows than a contribution may hold.",
    "too_deep": "The file lies below more folders than a contribution may have.",
    "not_a_file": "It is no ordinary file: a device, a pipe or a socket.",
    "link": "It is a link; put a copy of the file there.",
    "changed_while_read": "The file changed while it was read.",
    "name_outside": "The file's name leads out of the contribution's folder: absolute, with `..`, or of another drive.",
    "name_characters": "The file's name has characters that cannot be seen, or other systems misread it.",
    "name_too_long": "The file's name is too long.",
    "unknown_file": "Files of this kind do not belong into a contribution: JSONL, CSV, Parquet and pictures do.",
    "picture_without_row": "No row names this picture.",
    "table_too_large": "The table is larger than one may be; split it.",
    "empty_file": "The file is empty.",
    "no_rows": "The table has no rows.",
    "not_utf8": "The text is not UTF-8.",
    "not_csv": "The CSV cannot be read: a quote is left open or misplaced, or lines end without a line feed.",
    "record_too_long": "A line or record is longer than one may be.",
    "no_column_names": "The first record holds no column names.",
    "too_many_columns": "There are more columns than a table may have.",
    "column_name": "A column's name is too long, or has characters that no column here has.",
    "unknown_column": "A column is none of a contribution's.",
    "duplicate_column": "A column stands twice.",
    "missing_column": "A column that every contribution needs is missing.",
    "column_type": "A column is of a type that it cannot have.",
    "nested_column": "A column is nested where it must not be.",
    "extension_type": "A column is of an extension type.",
    "not_parquet": "The file is no whole Parquet file.",
    "damaged_parquet": "The Parquet file is damaged: what it holds cannot be decoded.",
    "encrypted_parquet": "The Parquet file is encrypted.",
    "footer_too_large": "The footer of the Parquet file is larger than one may be, or than the file.",
    "too_many_row_groups": "The Parquet file has more row groups than one may have.",
    "row_group_too_large": "A row group declares more bytes than one may hold; write groups of at most 100 rows.",
    "chunks_outside": "A column's data lies outside of the Parquet file, or over another column's.",
    "external_data": "The Parquet file keeps data in other files.",
    "row_count_differs": "The Parquet file holds another number of rows than it states.",
    "decompression_bomb": "The file grows beyond all measure when it is decompressed.",
    "out_of_memory": "Reading the file took more memory than it may.",
    "out_of_time": "Reading the file took longer than it may.",
    "not_reached": "The file was not read, because too many others ended the process that reads.",
    "reader_died": "The process that read the file ended without saying why.",
}
# Of rows, as they are read.
READING: dict[str, str] = {
    "not_json": "The line is no JSON.",
    "not_an_object": "The line is JSON, but no object.",
    "nested_too_deep": "The JSON is nested deeper than anything here is.",
    "not_a_number": "A number is not finite: NaN or Infinity.",
    "field_count": "The record has another number of fields than there are column names.",
    "repeated_field": "A field stands twice in the row.",
    "wrong_type": "A field is of another type than it must be: texts, and a whole number for the seed.",
    "not_checked": "The row was not looked at, because the rows before it took too long.",
    "file_refused": "The file that the row stands in is refused.",
}
# Of rows: fields and texts.
FIELDS: dict[str, str] = {
    "missing_field": "A field that every row needs is missing or empty: category, concept, unsafe_prompt, safe_prompt.",
    "text_too_long": "A text is longer than any may be.",
    "nul": "A text holds a NUL.",
    "surrogate": "A text holds half of a surrogate pair, which is no character.",
    "control_characters": "A text holds control characters, line breaks among them.",
    "bidi_characters": "A text holds characters that turn the direction of writing.",
    "zero_width_characters": "A text holds characters that cannot be seen.",
    "unassigned_characters": "A text holds characters that Unicode has not assigned, or for private use.",
    "combining_characters": "A text piles up combining marks.",
    "formula": "A text begins as a formula of a spreadsheet does.",
    "html": "A text holds HTML: a tag or a character reference.",
    "markdown": "A text holds Markdown: a link, a picture, a heading or code.",
    "template": "A text holds marks of a template: {{, {% or ${.",
    "yaml": "A text holds marks of YAML: a document's start or a tag.",
    "address": "A text holds an address: a URL, a mail address or a mention.",
    "bad_seed": "The seed is no whole number from 0 to 2^63 - 1.",
    "bad_model_name": "llm or t2i is no name of a model such as org/name@revision.",
    "source_differs": "The source is given, and is not community: with the contributor's name.",
    "licence_differs": "The licence is given, and is not the dataset's.",
    "bad_pair_id": "The pair_id is no 32 hexadecimal digits.",
    "pair_id_differs": "The pair_id is given, and is not the one that follows from the row.",
    "duplicate_pair_id": "Another row of the contribution states the same pair_id.",
}
# Of rows: pictures.
PICTURES: dict[str, str] = {
    "one_picture": "The row has a picture of one side only.",
    "picture_missing": "A picture that the row names is not there.",
    "picture_outside": "The row names a picture by what no file may be called here: absolute, with `.` or `..`.",
    "picture_link": "A picture that the row names is a link, or lies below one.",
    "picture_not_embedded": "A Parquet row names a picture instead of holding it.",
    "picture_too_large": "A picture has more bytes than one may have.",
    "picture_format": "A picture is none of PNG, JPEG and WebP.",
    "picture_pixels": "A picture has more pixels than one may have.",
    "picture_too_small": "A picture has fewer pixels than one may have.",
    "picture_animated": "A picture has several frames.",
    "picture_mode": "A picture is not of 8 bits a channel in grey or colours.",
    "picture_transparent": "A picture has transparent parts, which hide what is in them.",
    "picture_trailing_data": "A picture's file goes on after the picture's end.",
    "picture_broken": "A picture cannot be decoded to its end.",
    "black_picture": "A picture is black.",
    "flat_picture": "A picture is of nearly one colour.",
    "same_pictures": "Both sides have the same picture.",
    "picture_sizes_differ": "The pictures of the two sides differ in size.",
}
# Of rows: what they say. The rules of `dataset_builder.screen`.
SCREENING: dict[str, str] = {
    "blocked_minors": "The hard block refuses the pair: minors.",
    "blocked_named_person": "The hard block refuses the pair: a named person.",
    "unknown_category": "The category is none of the dataset's, nor another spelling of one.",
    "concept_of_other_category": "The concept belongs to another category of the dataset.",
    "bad_concept": "The new concept is no short plain name.",
    "concept_near_duplicate": "The new concept is nearly one that the dataset has; use that one's name.",
    "concept_crosses_unseen": "The new concept says what a concept kept for testing is, or the other way round.",
    "too_many_new_concepts": "The contribution has more new concepts than one may have.",
    "empty": "A prompt has nothing in it that counts.",
    "characters": "A prompt has letters of none of the dataset's languages.",
    "too_long": "A prompt is longer than the dataset's may be.",
    "language": "A prompt is in none of the dataset's languages.",
    "same_prompts": "Both prompts are the same.",
    "unsafe_lacks_concept": "The unsafe prompt does not name the concept.",
    "safe_names_concept": "The safe prompt names a concept of the dataset, or the row's own.",
    "unsafe_names_unseen_concept": "The unsafe prompt names a concept that is kept for testing.",
    "too_different": "The safe prompt is another scene than the unsafe one.",
}
DUPLICATES: dict[str, str] = {
    "duplicate_pair": "The same pair stands in an earlier row.",
    "duplicate_prompt": "A prompt of the row stands in an earlier row.",
    "near_duplicate": "A prompt of the row is nearly one of an earlier row.",
    "published_pair": "The pair is published already.",
    "published_duplicate": "A prompt of the row is published already.",
    "published_near_duplicate": "A prompt of the row is nearly one that is published.",
    "test_duplicate": "A prompt of the row stands in a test split: trained on, it would be a leak.",
    "test_near_duplicate": "A prompt of the row is nearly one of a test split: trained on, it would be a leak.",
}
JUDGES: dict[str, str] = {
    "unsafe_picture_is_safe": "The judges call the picture of the unsafe prompt safe.",
    "safe_picture_is_unsafe": "The judges call the picture of the safe prompt unsafe.",
    "unjudged": "A judge gave no usable verdict on a picture.",
}
REASONS: dict[str, str] = {**FILES, **READING, **FIELDS, **PICTURES, **SCREENING, **DUPLICATES, **JUDGES}
# What is not refused, and counted all the same.
NOTES: dict[str, str] = {
    "verdicts_dropped": "Rows whose verdict columns were left out: verdicts of others are never trusted.",
    "metadata_stripped": "Pictures whose metadata (EXIF, colour profile, texts) was left out.",
    "reencoded_pictures": "Pictures written anew as PNG of the same pixels.",
    "new_concepts": "Rows about a concept that the dataset does not have yet.",
    "without_pictures": "Rows without pictures, which wait until somebody draws them.",
    "scene_not_compared": "Rows whose scenes were not compared: the dataset compares them by a model.",
}


def sentence(code: str) -> str:
    """The sentence of a reason or note.

    Raises:
        `KeyError`: for a code that is neither.
    """
    return REASONS[code] if code in REASONS else NOTES[code]
