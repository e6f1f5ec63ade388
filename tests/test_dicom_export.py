"""Results as DICOM: read back by other libraries than wrote them, at the place of the reference."""

import json
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("highdicom")

import SimpleITK as sitk
from matplotlib.path import Path as Outline

from tests.series import SHAPE, head, lps_affine, read_back, turn, write_enhanced, write_series
from tumorjax.cli import main
from tumorjax.io import InputError, Volume, output_folder, read_volume, resample, write_volume
from tumorjax.planning import dice
from tumorjax.results.dicom import export_dicom
from tumorjax.results.dicom.contours import contours_of
from tumorjax.storage import text_digest

RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def shell(affine, shape=SHAPE):
    """A plan with a hole in it: the voxels at 14 to 34 mm from the centre of the head, and a part aside."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    away = np.linalg.norm(world - [7.25, -12.5, 31.0], axis=-1)
    return ((away > 14) & (away < 34)) | (np.linalg.norm(world - [50, -12.5, 31.0], axis=-1) < 9)


def write_result(folder, affine=None, *, plan=True, dose=True, quality="good", mask=None, frame=None):
    """Write what `personalize` would, with a made-up plan; `affine` is that of DICOM, LPS."""
    affine = lps_affine() if affine is None else affine
    mask = shell(affine) if mask is None else mask
    like = Volume(mask.astype(np.uint8), RAS @ affine)
    with output_folder(folder) as out:
        write_volume(out / "density.nii.gz", mask * np.linspace(0.2, 0.9, mask.shape[0])[:, None, None], like=like)
        if plan:
            write_volume(out / "plan.nii.gz", mask, like=like)
        if dose:
            write_volume(out / "dose.nii.gz", (60.25 * mask).astype(np.float32), like=like)
        (out / "metrics.json").write_text(json.dumps({"quality": quality}))
        made = {"provenance": {"date": "2024-03-04T05:06:07+00:00"}, "dose_plan": {"fractions": 30}}
        if frame is not None:
            made["provenance"]["sha256 of frame of reference of T1"] = text_digest(frame)
        (out / "parameters.json").write_text(json.dumps(made))
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The objects of a result on the voxels of an oblique series."""
    folder = tmp_path_factory.mktemp("dicom")
    reference, result = write_series(folder / "t1"), write_result(folder / "result")
    told = export_dicom(result, reference, folder / "out")
    return SimpleNamespace(folder=folder, out=folder / "out", reference=reference, result=result, told=told)


def filled(structure_set, series):
    """The mask of contours, by counting crossings: each pixel whose centre lies inside; (columns, rows, slices)."""
    planes = {header.SOPInstanceUID: header for header in series}
    shape = (series[0].Columns, series[0].Rows)
    centres = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 2)
    found, apart = {uid: np.zeros(shape, bool) for uid in planes}, [0.0]
    for contour in structure_set.ROIContourSequence[0].ContourSequence:
        header = planes[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
        points = np.array(contour.ContourData, float).reshape(-1, 3) - np.array(header.ImagePositionPatient, float)
        axes = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
        apart.append(np.abs(points @ np.cross(*axes)).max())
        flat = points @ axes.T / np.array(header.PixelSpacing, float)[::-1]
        assert len(points) == contour.NumberOfContourPoints
        inside = Outline(np.concatenate([flat, flat[:1]]), closed=True).contains_points(centres)
        found[header.SOPInstanceUID] ^= inside.reshape(shape)
    ordered = sorted(series, key=lambda header: header.InstanceNumber)
    return np.stack([found[header.SOPInstanceUID] for header in ordered], -1), max(apart)


def read_series_files(folder):
    return [read_back(path) for path in sorted(folder.glob("*.dcm"))]


def test_contours_are_the_plan_with_its_hole(exported):
    mask, apart = filled(read_back(exported.out / "plan_rtstruct.dcm"), read_series_files(exported.reference))
    plan = shell(lps_affine())
    assert dice(mask, plan) >= 0.98
    assert not mask[tuple(np.array(SHAPE) // 2)]
    # On the slices of the reference.
    assert apart < 1e-4
    assert exported.told["plan_ml"] == pytest.approx(plan.sum() * 0.135)


def test_the_segmentation_is_the_plan_for_simpleitk(exported):
    image = sitk.ReadImage(str(exported.out / "plan_seg.dcm"))
    np.testing.assert_array_equal(on_reference(image) > 0, shell(lps_affine()))


def on_reference(image, affine=None):
    """The voxels of an image of SimpleITK's in the order of the reference, on whose voxels they lie within 1e-4 mm."""
    places = np.array([image.TransformIndexToPhysicalPoint(each) for each in np.eye(4, 3, -1, dtype=int).tolist()])
    theirs = np.eye(4)
    theirs[:3] = np.column_stack([*(places[1:] - places[0]), places[0]])
    affine = lps_affine() if affine is None else affine
    corners = np.array([[x, y, z, 1] for x in (0, 39) for y in (0, 35) for z in (0, 19)], float).T
    index = np.linalg.solve(theirs, affine @ corners)
    np.testing.assert_allclose(theirs @ index.round(), affine @ corners, atol=1e-4)
    index = np.linalg.solve(theirs, affine @ [*np.indices(SHAPE).reshape(3, -1), np.ones(np.prod(SHAPE))])
    x, y, z = index[:3].round().astype(int)
    return sitk.GetArrayFromImage(image)[z, y, x].reshape(SHAPE)


def test_the_dose_is_that_of_the_result_for_simpleitk(exported):
    image = sitk.ReadImage(str(exported.out / "dose_rtdose.dcm"))
    dose = read_back(exported.out / "dose_rtdose.dcm")
    step = float(dose.DoseGridScaling)
    np.testing.assert_allclose(on_reference(image) * step, 60.25 * shell(lps_affine()), atol=1e-4)
    assert (dose.DoseUnits, dose.DoseSummationType) == ("GY", "PLAN_OVERVIEW")
    (overview,) = dose.PlanOverviewSequence
    drawn = read_back(exported.out / "plan_rtstruct.dcm").SOPInstanceUID
    assert overview.ReferencedStructureSetSequence[0].ReferencedSOPInstanceUID == drawn
    assert overview.NumberOfFractionsIncluded == 30


def test_the_density_is_a_parametric_map_for_pydicom(exported):
    found = read_back(exported.out / "density_pm.dcm")
    density = read_volume(exported.result / "density.nii.gz", name="density").data
    for frame, plane in zip(found.PerFrameFunctionalGroupsSequence, found.pixel_array, strict=True):
        place = [*map(float, frame.PlanePositionSequence[0].ImagePositionPatient), 1.0]
        number = round(np.linalg.solve(lps_affine(), place)[2])
        np.testing.assert_allclose(place, lps_affine() @ [0, 0, number, 1], atol=1e-4)
        np.testing.assert_allclose(plane.T, density[..., number], atol=1e-5)
    shared = found.SharedFunctionalGroupsSequence[0]
    np.testing.assert_allclose(np.array(shared.PixelMeasuresSequence[0].PixelSpacing, float), [5.0, 4.5])


NAMES = ["plan_rtstruct.dcm", "plan_seg.dcm", "density_pm.dcm", "dose_rtdose.dcm"]


@pytest.mark.parametrize("name", NAMES)
def test_objects_belong_to_the_patient_and_the_study(exported, name):
    found, given = read_back(exported.out / name), read_series_files(exported.reference)[0]
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate"):
        assert found[keyword].value == given[keyword].value, keyword
    frame = found.get("FrameOfReferenceUID")
    assert frame == given.FrameOfReferenceUID
    assert found.SOPInstanceUID.startswith("2.25.") and found.SOPInstanceUID.is_valid
    assert found.SeriesInstanceUID.startswith("2.25.") and found.SeriesInstanceUID != given.SeriesInstanceUID
    assert "RESEARCH" in found.SeriesDescription
    assert "research only" in str(found).casefold()


def test_identifiers_differ_between_objects(exported):
    found = [read_back(exported.out / name) for name in NAMES]
    uids = [uid for each in found for uid in (each.SOPInstanceUID, each.SeriesInstanceUID)]
    assert len(set(uids)) == len(uids)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy, of the Debian package dicom3tools")
@pytest.mark.parametrize("name", NAMES)
def test_a_validator_finds_no_error(exported, name):
    done = subprocess.run(["dciodvfy", exported.out / name], capture_output=True, check=False)
    assert b"Error" not in done.stdout + done.stderr and done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_decimal_strings_are_short_enough(exported, name):
    def strings(dataset):
        for element in dataset:
            if element.VR == "SQ":
                for item in element.value:
                    yield from strings(item)
            elif element.VR == "DS" and element.value is not None:
                yield from map(str, element.value if element.VM > 1 else [element.value])

    found = list(strings(read_back(exported.out / name)))
    assert found and max(map(len, found)) <= 16


def test_the_same_result_and_series_give_the_same_bytes(exported):
    export_dicom(exported.result, exported.reference, exported.folder / "again")
    for name in NAMES:
        assert (exported.folder / "again" / name).read_bytes() == (exported.out / name).read_bytes(), name
    other = write_result(exported.folder / "other", quality="doubtful", mask=np.roll(shell(lps_affine()), 1, axis=0))
    export_dicom(other, exported.reference, exported.folder / "theirs")
    one, two = (read_back(exported.folder / each / "plan_seg.dcm") for each in ("again", "theirs"))
    assert one.SOPInstanceUID != two.SOPInstanceUID and "doubtful" in two.ContentDescription


def test_a_result_on_other_voxels_is_resampled(tmp_path):
    """A plan in a finer, turned grid, without a dose, on a coarser axial series."""
    fine, axial = lps_affine(turn(3, -20, 11), (80, 90, 84), (2.0, 2.0, 2.0)), lps_affine(np.eye(3))
    plan = shell(fine, (80, 90, 84))
    result = write_result(tmp_path / "result", fine, mask=plan, dose=False)
    reference = write_series(tmp_path / "t1", affine=axial)
    told = export_dicom(result, reference, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*NAMES[:3], "SHA256SUMS"])
    mask, _ = filled(read_back(tmp_path / "out" / NAMES[0]), read_series_files(reference))
    shown = on_reference(sitk.ReadImage(str(tmp_path / "out" / NAMES[1])), axial) > 0
    assert dice(mask, shown) >= 0.98
    assert told["plan_ml"] == pytest.approx(plan.sum() * 0.008, rel=0.05)
    assert dice(shown, shell(axial)) > 0.9


def test_an_enhanced_reference_is_referred_to_by_frames(tmp_path):
    result = write_result(tmp_path / "result")
    export_dicom(result, write_enhanced(tmp_path / "t1.dcm"), tmp_path / "out")
    shown = on_reference(sitk.ReadImage(str(tmp_path / "out" / NAMES[1])))
    np.testing.assert_array_equal(shown > 0, shell(lps_affine()))
    contours = read_back(tmp_path / "out" / NAMES[0]).ROIContourSequence[0].ContourSequence
    frames = {contour.ContourImageSequence[0].ReferencedFrameNumber for contour in contours}
    assert min(frames) > 1 and max(frames) < 20
    first = contours[0]
    point = np.array(first.ContourData[:3], float)
    back = np.linalg.solve(lps_affine(), [*point, 1])
    # Frames are in the reverse order of the slices.
    assert round(back[2]) == 20 - first.ContourImageSequence[0].ReferencedFrameNumber


def test_references_may_lack_attributes_and_round_otherwise(tmp_path):
    def anonymous(number, dataset):
        for keyword in ("PatientBirthDate", "StudyTime", "StudyID", "AccessionNumber", "SliceThickness"):
            delattr(dataset, keyword)
        dataset.PatientName, dataset.SpecificCharacterSet = "", None
        # Rounded otherwise in each slice, as some scanners do.
        dataset.ImageOrientationPatient = [f"{each + number * 1e-7:.9f}" for each in dataset.ImageOrientationPatient]

    reference = write_series(tmp_path / "t1", changed=anonymous)
    export_dicom(write_result(tmp_path / "result"), reference, tmp_path / "out")
    assert {str(read_back(tmp_path / "out" / name).PatientBirthDate) for name in NAMES} == {""}


@pytest.mark.parametrize("seed", range(5))
def test_contours_contain_the_pixels_of_any_mask(seed):
    """Specks, holes within holes, and masks at the border, by counting crossings and turns."""
    rng = np.random.default_rng(seed)
    mask = rng.random((17, 23)) < (0.3, 0.5, 0.6, 0.7, 0.95)[seed]
    centres = np.stack(np.meshgrid(*map(np.arange, mask.shape), indexing="ij"), -1).reshape(-1, 2)
    crossings, turns = np.zeros(mask.size, int), np.zeros(mask.size, bool)
    for ring in contours_of(mask):
        closed = np.concatenate([ring, ring[:1]])
        begin, end = closed[:-1], closed[1:]
        for (xa, ya), (xb, yb) in zip(begin, end, strict=True):
            level = (min(ya, yb) <= centres[:, 1]) & (centres[:, 1] < max(ya, yb))
            with np.errstate(all="ignore"):
                crossings += level & (centres[:, 0] < xa + (centres[:, 1] - ya) * (xb - xa) / (yb - ya))
        turns |= Outline(closed, closed=True).contains_points(centres)
    np.testing.assert_array_equal((crossings % 2).reshape(mask.shape), mask)
    np.testing.assert_array_equal(turns.reshape(mask.shape), mask)


def elsewhere(tmp_path):
    return write_series(tmp_path / "t1", affine=lps_affine(centre=(900, 0, 0)))


def half(tmp_path):
    affine = lps_affine()
    affine[:3, 3] += affine[:3, :3] @ [0, 0, 10]
    return write_series(tmp_path / "t1", affine=affine)


def other_head(tmp_path):
    return write_series(tmp_path / "t1", data=np.roll(head(), (18, 16), (0, 1)))


def without_frame(tmp_path):
    return write_series(tmp_path / "t1", FrameOfReferenceUID="")


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (elsewhere, {}, r"reference .*: lies elsewhere than the plan; give a series of the patient in whose frame"),
        (half, {}, r"reference .*: covers \d+% of the plan; give a series of the whole head"),
        (other_head, {}, r"reference .*: shows a head in \d+% of the plan"),
        (without_frame, {}, r"reference .*: states no frame of reference"),
        (lambda folder: folder, {}, r"reference .*: is a folder without DICOM files"),
        (
            write_series,
            {"frame": "1.2.3"},
            r"reference .*: is in another frame of reference than the images",
        ),
        (write_series, {"plan": False, "quality": "failed"}, r"result .*: has no plan, because the result has failed"),
    ],
)
def test_refuses_what_does_not_go_together(tmp_path, make, settings, message):
    result = write_result(tmp_path / "result", **settings)
    reference = make(tmp_path / "t1" if make is write_series else tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        export_dicom(result, reference, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))


def test_a_result_of_the_same_frame_is_exported(tmp_path):
    reference = write_series(tmp_path / "t1")
    frame = read_volume(reference, name="T1").frame
    export_dicom(write_result(tmp_path / "result", frame=frame), reference, tmp_path / "out")
    assert read_back(tmp_path / "out" / NAMES[0]).FrameOfReferenceUID == frame


def test_refuses_a_result_that_was_changed(tmp_path):
    result = write_result(tmp_path / "result")
    plan = read_volume(result / "plan.nii.gz", name="plan")
    write_volume(result / "plan.nii.gz", plan.data > 1, like=plan)
    for folder in (result, tmp_path):
        with pytest.raises(InputError, match="has no results of tumorjax personalize, or not as they were written"):
            export_dicom(folder, tmp_path / "t1", tmp_path / "out")


@pytest.mark.usefixtures("jax_as_installed")
def test_the_command_exports_and_refuses(exported, capsys):
    words = ["export", str(exported.result), "--reference", str(exported.reference), "--to", "dicom"]
    out = exported.folder / "by command"
    assert main([*words, "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == ", ".join(NAMES)
    assert main([*words, "--out", str(out)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main([*words[:2], "--reference", str(exported.result), *words[4:], "--out", f"{out}2"]) == 2
    assert "is a folder without DICOM files" in capsys.readouterr().err


def test_resampling_onto_the_same_voxels_changes_nothing():
    grid = Volume(shell(lps_affine()), RAS @ lps_affine()).grid
    mask = shell(lps_affine())
    np.testing.assert_array_equal(resample(mask, np.asarray(grid.affine), grid, kind="mean"), mask)
