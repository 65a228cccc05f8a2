from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from dcp_deploy.teachers.presets import DATASETS, Dataset

FETCHED = [preset for preset in DATASETS.values() if preset.teacher.url is not None]


@pytest.mark.parametrize("preset", FETCHED, ids=lambda preset: preset.name)
def test_a_preset_names_file_licence_and_sources(preset: Dataset) -> None:
    teacher = preset.teacher
    assert teacher.licence and teacher.page and preset.images_licence and preset.images
    for url in (teacher.url, teacher.page, preset.images_url):
        assert url is not None and urlsplit(url).scheme == "https" and urlsplit(url).hostname
    assert preset.resolution in (256, 512, 1024)


@pytest.mark.parametrize("preset", FETCHED, ids=lambda preset: preset.name)
def test_the_status_names_the_server_the_size_and_the_flag_that_avoids_the_download(preset: Dataset) -> None:
    host = urlsplit(preset.teacher.url or "").hostname
    assert host and host in preset.status and "build fetches" in preset.status and "--teacher FILE" in preset.status
    assert preset.teacher.size_words in preset.status
    assert preset.to_dict()["status"] == preset.status and preset.to_dict()["ready"] is False


def test_the_demo_needs_no_network() -> None:
    assert [name for name, preset in DATASETS.items() if preset.ready] == ["demo"]
    assert DATASETS["demo"].status.startswith("ready")


def test_nvidia_s_teachers_state_their_licence() -> None:
    theirs = [preset for preset in FETCHED if "nvidia" in (preset.teacher.url or "")]
    assert len(theirs) == len(FETCHED) - 1  # all but rosinality's
    assert all("research or evaluation only" in preset.teacher.licence for preset in theirs)


def test_no_two_presets_share_a_teacher() -> None:
    addresses = [preset.teacher.url for preset in FETCHED]
    assert len(set(addresses)) == len(addresses)


@pytest.mark.parametrize(
    ("name", "file", "megabytes"),
    [
        ("ffhq", "stylegan2-ffhq-1024x1024.pkl", 381),
        ("afhqcat", "stylegan2-afhqcat-512x512.pkl", 364),
        ("lsunchurch", "stylegan2-church-config-f.pkl", 357),
        ("lsuncar", "stylegan2-car-config-f.pkl", 364),
        ("stylegan3-t-ffhqu", "stylegan3-t-ffhqu-256x256.pkl", 283),
        ("stylegan3-r-afhqv2", "stylegan3-r-afhqv2-512x512.pkl", 249),
        ("ffhq256", "550000.pt", None),
    ],
)
def test_presets_name_the_published_files(name: str, file: str, megabytes: int | None) -> None:
    teacher = DATASETS[name].teacher
    assert (teacher.file, teacher.megabytes) == (file, megabytes)


def test_published_figures_name_their_source() -> None:
    for preset in FETCHED:
        for row in preset.published:
            assert row.source and row.teacher_fid > 0
            assert row.student_fid is None or row.student_fid > row.teacher_fid


def test_a_published_student_is_listed_with_the_teacher_of_its_source() -> None:
    rows = {row.method: (row.teacher_fid, row.student_fid) for row in DATASETS["ffhq256"].published}
    assert rows == {"DCP-GAN": (4.5, 6.35), "StyleKD": (4.5, 7.25), "DCP-GAN + SVS": (4.29, 5.68)}
