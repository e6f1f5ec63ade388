"""DICOM series in place of NIfTI: exact geometry and values, and one line for those that cannot be used."""

import sys

import numpy as np
import pytest

pytest.importorskip("pydicom")

import SimpleITK as sitk
from pydicom.uid import MPEG2MPML, JPEGLSLossless, RLELossless

from tests.series import OBLIQUE, SHAPE, head, lps_affine, write_enhanced, write_series
from tests.test_cli import RAS as PATIENT
from tests.test_cli import made_up
from tumorjax.cli import main
from tumorjax.io import InputError, Volume, read_volume, resample, sha256, write_volume
from tumorjax.patient import load_patient
from tumorjax.patient.visits import read_visits
from tumorjax.quality import Status
from tumorjax.storage import text_digest

RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    "rotation", [np.eye(3), OBLIQUE, np.diag([1.0, -1.0, -1.0])], ids=["axial", "oblique", "flipped"]
)
def test_geometry_and_values_are_exact(tmp_path, rotation):
    affine = lps_affine(rotation)
    data = head(affine=affine)
    found = read_volume(write_series(tmp_path / "t1", data, affine), name="T1")
    assert found.has_world and not found.notes
    np.testing.assert_allclose(found.affine, RAS @ affine, atol=1e-6)
    np.testing.assert_array_equal(found.data, data)
    assert found.data.dtype == data.dtype


def test_another_reader_sees_the_same_place(tmp_path):
    folder = write_series(tmp_path / "t1")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    theirs, ours = reader.Execute(), read_volume(folder, name="T1")
    np.testing.assert_array_equal(ours.data, sitk.GetArrayFromImage(theirs).T)
    for index in [(0, 0, 0), (39, 35, 19), (3, 30, 7)]:
        world = ours.affine @ [*index, 1]
        np.testing.assert_allclose(world[:3] * [-1, -1, 1], theirs.TransformIndexToPhysicalPoint(index), atol=1e-4)


def test_slopes_of_single_slices_are_applied(tmp_path):
    folder = write_series(tmp_path / "pet", rescale=lambda number: (0.5 + number / 8, -2 * number))
    number = np.arange(SHAPE[2])
    np.testing.assert_allclose(
        read_volume(folder, name="PET").data, head() * (0.5 + number / 8) - 2.0 * number, rtol=1e-6
    )


def test_integer_slopes_keep_integers(tmp_path):
    data = read_volume(write_series(tmp_path / "ct", rescale=lambda number: (1, -1024)), name="CT").data
    assert data.dtype.kind == "i"
    np.testing.assert_array_equal(data, head().astype(int) - 1024)


@pytest.mark.parametrize("rescale", [lambda number: (1, 0), lambda number: (0.25 * (number + 1), 10 - number)])
def test_an_enhanced_multi_frame_image_is_a_series(tmp_path, rescale):
    path = write_enhanced(tmp_path / "t1.dcm", rescale=rescale)
    slope, intercept = np.array([rescale(number) for number in range(SHAPE[2])]).T
    for place in (path, tmp_path):
        found = read_volume(place, name="T1")
        np.testing.assert_allclose(found.affine, RAS @ lps_affine(), atol=1e-6)
        np.testing.assert_allclose(found.data, head() * slope + intercept)
        assert found.data.dtype == (np.uint16 if slope[1] == 1 else np.float32)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_series_are_read(tmp_path, syntax):
    pytest.importorskip("jpeg_ls" if syntax == JPEGLSLossless else "pydicom")

    def compressed(_, dataset):
        dataset.compress(syntax, generate_instance_uid=False)

    folder = write_series(tmp_path / "t1", changed=compressed)
    np.testing.assert_array_equal(read_volume(folder, name="T1").data, head())


def test_what_is_written_is_nifti_of_the_same_geometry(tmp_path):
    t1 = read_volume(write_series(tmp_path / "t1"), name="T1")
    write_volume(tmp_path / "t1.nii.gz", t1.data.astype(np.float32), like=t1)
    again = read_volume(tmp_path / "t1.nii.gz", name="T1")
    np.testing.assert_allclose(again.affine, t1.affine, atol=1e-4)
    assert again.has_world and not again.notes
    np.testing.assert_array_equal(resample(t1.data, t1.affine, again.grid, kind="nearest"), t1.data)


def test_other_files_are_passed_over_and_the_folder_has_a_checksum(tmp_path):
    folder = write_series(tmp_path / "t1")
    before = sha256(folder)
    (folder / ".hidden").write_text("of a file manager")
    assert sha256(folder) == before
    (folder / "readme.txt").write_text("not DICOM")
    np.testing.assert_array_equal(read_volume(folder, name="T1").data, head())
    assert sha256(folder) != before


def test_a_patient_may_have_a_series_for_t1(tmp_path):
    images, world = made_up(), np.diag([-1.0, -1.0, 1.0, 1.0]) @ PATIENT
    folder = write_series(tmp_path / "t1", images["t1"].astype(np.uint16), world)
    given = {"segmentation": "segmentation", "white_matter": "wm", "grey_matter": "gm", "brain_mask": "brain_mask"}
    volumes = {key: Volume(images[name], PATIENT) for key, name in given.items()}
    patient = load_patient(t1=folder, labels="brats2021", resolution=8, **volumes)
    np.testing.assert_allclose(patient.background, images["t1"].round(), atol=1e-2)
    frame = read_volume(folder, name="T1").frame
    assert patient.hashes == {"T1": sha256(folder), "frame of reference of T1": text_digest(frame)}
    pet = Volume(images["pet"], PATIENT, frame="1.2.3")
    notes = load_patient(t1=folder, pet=pet, labels="brats2021", resolution=8, **volumes).notes
    assert [note.status for note in notes if "different frames of reference" in note] == [Status.DOUBTFUL]
    (tmp_path / "visits.csv").write_text("day,segmentation,t1\n0,visits.csv,t1\n")
    assert read_visits(tmp_path / "visits.csv")[0]["t1"] == folder


def test_headers_that_announce_more_slices_make_a_note(tmp_path):
    (note,) = read_volume(write_series(tmp_path / "t1", ImagesInAcquisition=24), name="T1").notes
    assert "has 20 slices, and its headers announce 24" in note


def only(number, **facts):
    """A change of one slice."""

    def changed(each, dataset):
        if each == number:
            for keyword, value in facts.items():
                setattr(dataset, keyword, value)

    return changed


def cut_off(folder):
    path = sorted(folder.iterdir())[4]
    path.write_bytes(path.read_bytes()[:-500])


def overwritten(folder):
    sorted(folder.iterdir())[4].write_bytes(b"no DICOM")


def labelled(_, dataset):
    dataset.file_meta.TransferSyntaxUID = MPEG2MPML
    from pydicom.encaps import encapsulate

    dataset.PixelData = encapsulate([b"no film "])
    dataset["PixelData"].VR = "OB"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda number, _: number not in (7, 8), r"lacks about 2 slices: 18 mm lie between two slices, 6 mm between"),
        (lambda number, _: number == 3, r"has one slice"),
        (
            only(4, SeriesInstanceUID="1.2.3"),
            r"has 2 series: 3 T1 MPRAGE \(19 images\), 3 T1 MPRAGE \(1 images\); give",
        ),
        (only(4, PatientID="0815"), r"mixes images of 2 patients \(PatientID\)"),
        (only(4, FrameOfReferenceUID="1.2.3"), r"mixes images of 2 frames of reference"),
        (only(4, ImageOrientationPatient=[1, 0, 0, 0, 0, -1]), r"mixes images of several directions"),
        (only(4, PixelSpacing=[5, 5]), r"mixes images of several voxel sizes"),
        (only(4, ImagePositionPatient=lps_affine()[:3, 3].tolist()), r"has 2 images at one place \(such as echoes"),
        (only(4, ImagePositionPatient=None), r"has the file 028.dcm without a usable ImagePositionPatient"),
        (only(4, SamplesPerPixel=3), r"has the coloured image 028.dcm"),
        (only(4, SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4"), r"segmentation 028.dcm, which is not read"),
        (cut_off, r"has the file 014.dcm with 2392 bytes of its 2880 of pixels; it is cut off"),
        (overwritten, r"has the file 014.dcm, which is no readable DICOM"),
        (labelled, r"compressed as MPEG2 .*, which cannot be decoded here; decompress it"),
    ],
)
def test_refuses_in_one_line(tmp_path, changed, message):
    folder = tmp_path / "t1"
    whole = changed in (cut_off, overwritten)
    write_series(folder, changed=None if whole else changed)
    if whole:
        changed(folder)
    with pytest.raises(InputError, match=message) as caught:
        read_volume(folder, name="T1")
    assert str(caught.value).startswith(f"T1 {folder}: ") and "\n" not in str(caught.value)


def test_the_ending_of_a_series_may_be_irregular_by_rounding_only(tmp_path):
    affine = lps_affine()
    rounded = {number: (affine @ [0, 0, number, 1])[:3].round(2).tolist() for number in range(SHAPE[2])}

    def moved(number, dataset):
        dataset.ImagePositionPatient = rounded[number]

    found = read_volume(write_series(tmp_path / "t1", affine=affine, changed=moved), name="T1")
    np.testing.assert_allclose(found.affine, RAS @ affine, atol=6e-3)

    def bent(number, dataset):
        dataset.ImagePositionPatient = (affine @ [0, 0, number + (0.2 if number == 9 else 0), 1])[:3].tolist()

    with pytest.raises(InputError, match="not equally far apart"):
        read_volume(write_series(tmp_path / "other", affine=affine, changed=bent), name="T1")


def test_without_pydicom_a_line_says_what_to_install(tmp_path, monkeypatch):
    folder = write_series(tmp_path / "t1")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(InputError, match=r"pip install 'tumorjax\[dicom\]'"):
        read_volume(folder, name="T1")


@pytest.mark.usefixtures("jax_as_installed")
def test_the_command_refuses_a_series_with_code_2(tmp_path, capsys):
    folder = write_series(tmp_path / "t1", changed=lambda number, _: number != 7)
    like = read_volume(write_series(tmp_path / "whole"), name="T1")
    write_volume(tmp_path / "seg.nii.gz", np.zeros(SHAPE, np.uint8), like=like)
    words = ["--segmentation", tmp_path / "seg.nii.gz", "--t1", folder, "--out", tmp_path / "out"]
    assert main(["personalize", *map(str, words)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert "lacks about 1 slice:" in line
    assert not (tmp_path / "out").exists()
