"""Frames out of sound, damaged, rotated and impossible files."""

import cv2
import numpy as np
import pytest

from robust.data import decode_decord, video
from robust.data.decoded import FrameSink
from robust.data.video import read_frames, read_image, uniform_indices
from tests import clips


def read(data, count=8):
    return read_frames(data, count=count, name="clip")


@pytest.fixture
def without_decord(monkeypatch):
    monkeypatch.setattr(video, "DECORD_CODECS", ())


def test_indices_are_the_centres_of_equal_parts():
    assert uniform_indices(40, 8).tolist() == [2, 7, 12, 17, 22, 27, 32, 37]
    assert uniform_indices(10, 3).tolist() == [1, 5, 8]
    assert uniform_indices(7, 1).tolist() == [3]
    for total in range(1, 60):
        for count in range(1, 30):
            indices = uniform_indices(total, count)
            parts = min(total, count)
            centres = (np.arange(parts) + 0.5) * total / parts
            assert len(set(indices)) == parts
            assert np.all(indices <= centres + 1e-9) and np.all(centres < indices + 1)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"codec": "libx265"},
        {"container": "webm", "codec": "libvpx"},
        {"container": "webm", "codec": "libvpx-vp9"},
        {"container": "mkv"},
        {"container": "avi", "codec": "mpeg4"},
        {"container": "mp4", "codec": "mpeg4"},
    ],
    ids=lambda options: "-".join(options.values()) or "mp4",
)
def test_the_frames_asked_for_come_upright_in_order_with_their_times(options):
    decoded = read(clips.counting(40, **options))
    assert (decoded.status, decoded.reason) == ("ok", "")
    assert decoded.frames.shape == (8, 64, 96, 3) and decoded.frames.dtype == np.uint8
    assert decoded.indices.tolist() == clips.numbers(decoded.frames) == [2, 7, 12, 17, 22, 27, 32, 37]
    assert np.allclose(decoded.timestamps_s, decoded.indices / clips.FPS, atol=2e-3)
    assert decoded.frames[:, :8, :12].min() > 220  # the white corner is where it was


@pytest.mark.parametrize("options", [("avi", "mpeg4"), ("mp4", "mpeg4"), ("avi", "libx264")])
def test_what_decord_gets_wrong_does_not_go_through_it(options, monkeypatch):
    # decord 0.6.0 returns frames of other moments for some of these, without an error.
    monkeypatch.setattr(decode_decord.decord, "VideoReader", lambda *_, **__: pytest.fail("decord was asked"))
    container, codec = options
    assert read(clips.counting(20, container=container, codec=codec)).status == "ok"


def test_both_decoders_agree_to_the_pixel(monkeypatch):
    webm = clips.noisy(30, container="webm", codec="libvpx")
    for data in [clips.noisy(30), clips.rotated(clips.noisy(30), 90), webm]:
        by_decord = read(data)
        with monkeypatch.context() as patch:
            patch.setattr(video, "DECORD_CODECS", ())
            by_av = read(data)
        assert np.array_equal(by_decord.frames, by_av.frames)
        assert np.array_equal(by_decord.indices, by_av.indices)
        assert np.allclose(by_decord.timestamps_s, by_av.timestamps_s, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [{"codec": "libx265"}, {"codec": "libx265", "pixels": "yuv420p10le"}, {"gop": 300}, {"codec": "libsvtav1"},
     {"container": "webm", "codec": "libvpx-vp9"}, {"container": "avi", "codec": "mpeg4"}],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_visiting_frames_gives_those_of_decoding_everything(options, monkeypatch):
    # decord 0.6.0 gives other frames for the first: x265's groups of pictures are open.
    data = clips.noisy(40, **options)
    whole = video._read_through(data, video.probe(data), 40, FrameSink())
    monkeypatch.setattr(video, "_read_through", lambda *_: pytest.fail("decoded from start to end"))
    monkeypatch.setattr(video, "WHOLE_BYTES", 1000)
    assert len(whole.frames) == 40
    for count in (8, 40):
        visited = read(data, count)
        assert (visited.status, visited.reason) == ("ok", "")
        assert np.array_equal(visited.indices, uniform_indices(40, count))
        assert np.array_equal(visited.frames, whole.frames[visited.indices])
        assert np.allclose(visited.timestamps_s, whole.timestamps_s[visited.indices], atol=1e-6)


def test_hevc_with_open_groups_of_pictures_is_exact():
    data = clips.noisy(40, codec="libx265")
    whole = video._read_through(data, video.probe(data), 40, FrameSink()).frames
    decoded = read(data)
    assert np.array_equal(decoded.frames, whole[decoded.indices])


def test_frames_that_an_edit_list_hides_are_not_counted():
    data = clips.cartoon().read_bytes()  # 98 are stored, 95 are shown
    whole = video._read_through(data, video.probe(data), 1000, FrameSink()).frames
    decoded = read(data, 25)
    assert len(whole) == 95 and np.array_equal(decoded.indices, uniform_indices(95, 25))
    assert np.array_equal(decoded.frames, whole[decoded.indices])


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize("decoder", ["decord", "av"])
def test_rotation_is_applied(degrees, decoder, monkeypatch):
    if decoder == "av":
        monkeypatch.setattr(video, "DECORD_CODECS", ())
    decoded = read(clips.rotated(clips.counting(10), degrees))
    assert decoded.frames.shape[1:3] == ((64, 96) if degrees == 180 else (96, 64))
    upright = np.rot90(decoded.frames, degrees // 90, axes=(1, 2))  # a player turns clockwise by the matrix's angle
    assert upright[:, :8, :12].min() > 220 and upright[:, -8:, -12:].max() < 200


def test_a_path_and_bytes_give_the_same(tmp_path):
    data = clips.noisy(12)
    path = tmp_path / "a clip.mp4"
    path.write_bytes(data)
    assert np.array_equal(read(path).frames, read(data).frames)


@pytest.mark.parametrize("decoder", ["decord", "av"])
def test_a_short_clip_gives_each_of_its_frames_once(decoder, monkeypatch):
    if decoder == "av":
        monkeypatch.setattr(video, "DECORD_CODECS", ())
    decoded = read(clips.counting(3))
    assert decoded.status == "ok" and clips.numbers(decoded.frames) == [0, 1, 2]


def test_odd_sizes_and_full_colour_resolution():
    decoded = read(clips.counting(10, height=61, width=97, pixels="yuv444p"))
    assert decoded.status == "ok" and decoded.frames.shape == (8, 61, 97, 3)


@pytest.mark.parametrize("share", [0.99, 0.6, 0.3])
def test_a_truncated_file_gives_its_good_frames_and_says_so(share):
    data = clips.noisy(40)
    whole = read(data, count=40).frames
    decoded = read(data[: int(share * len(data))])
    assert decoded.status == "partial" and "of about 40 frames are good" in decoded.reason
    assert 1 <= len(decoded.frames) <= 8
    assert decoded.indices[-1] < 40 * share
    for image, index in zip(decoded.frames, decoded.indices):
        assert np.array_equal(image, whole[index])


def test_a_truncated_webm_whose_decoder_does_not_complain_is_partial_too():
    data = clips.noisy(40, container="webm", codec="libvpx")
    decoded = read(data[: len(data) // 2])
    assert decoded.status == "partial" and decoded.reason.startswith("cut off: ends at")
    assert 0 < len(decoded.frames) and decoded.timestamps_s[-1] < 1.5


@pytest.mark.parametrize("options", [
    {"codec": "libsvtav1"}, {"container": "mkv"}, {"container": "avi", "codec": "mpeg4"}, {"codec": "libx265"}],
    ids=lambda options: "-".join(options.values()))
def test_a_file_that_lost_its_last_quarter_is_partial_whatever_it_is(options):
    data = clips.noisy(40, **options)
    decoded = read(data[: 3 * len(data) // 4])
    assert decoded.status == "partial" and ("cut off" in decoded.reason or "damaged" in decoded.reason)
    assert len(decoded.frames) == 8 and decoded.indices[-1] < 32


def test_variable_frame_rate_is_sampled_by_frame_and_timed_by_the_file():
    data, starts = clips.variable_rate()
    for count in (8, 40):
        decoded = read(data, count)
        assert decoded.status == "ok" and clips.numbers(decoded.frames) == decoded.indices.tolist()
        assert np.allclose(decoded.timestamps_s, [starts[index] for index in decoded.indices], atol=1e-4)


@pytest.mark.parametrize("pixels", ["yuv420p10le", "yuv444p"])
def test_ten_bit_and_full_colour_h264(pixels):
    decoded = read(clips.counting(10, pixels=pixels))
    assert decoded.status == "ok" and clips.numbers(decoded.frames) == decoded.indices.tolist()


def test_frames_that_depend_on_damaged_ones_are_left_out():
    data = bytearray(clips.noisy(40))
    whole = read(bytes(data), count=40).frames
    middle = len(data) // 2
    data[middle:middle + 600] = np.random.default_rng(0).bytes(600)
    decoded = read(bytes(data), count=40)
    assert decoded.status == "partial" and "damaged" in decoded.reason
    assert 10 <= len(decoded.frames) < 40
    shown = clips.numbers(decoded.frames)
    assert shown == sorted(shown) and shown[0] == 0 and shown[-1] == 39
    assert all(np.array_equal(image, whole[number]) for image, number in zip(decoded.frames, shown))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file (0 bytes)"),
        (np.random.default_rng(0).bytes(5000), "not a video, or its header is lost"),
        (b"<html>Sign in to continue</html>" * 20, "not a video, or its header is lost"),
        (clips.audio_only(), "no video stream: audio only"),
        (clips.audio_only(cover=True), "no video stream: audio and a cover picture"),
        (clips.without_frames(), "no video stream"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n", "not a video"),
        (b"ffconcat version 1.0\nfile /etc/hostname\n", "not a video, but a list that names other files"),
        (cv2.imencode(".jpg", clips.frame(0))[1].tobytes(), "a picture, not a video"),
    ],
    ids=["empty", "garbage", "html", "audio", "cover", "no-frames", "playlist", "list", "picture"],
)
def test_what_is_no_video_is_unreadable_with_a_reason(data, reason):
    decoded = read(data)
    assert decoded.status == "unreadable" and reason in decoded.reason
    assert decoded.frames.shape[0] == len(decoded.indices) == len(decoded.timestamps_s) == 0


def test_a_lost_index_a_missing_file_and_a_folder_are_unreadable(tmp_path):
    data = clips.noisy(10)
    assert read(data[: data.index(b"mdat")][:300]).status == "unreadable"
    assert read(tmp_path / "gone.mp4").reason == "cannot be read: No such file or directory"
    assert read(tmp_path).status == "unreadable"


def test_read_image(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    path = tmp_path / "face.png"
    path.write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
    assert np.array_equal(read_image(path), image) and np.array_equal(read_image(path.read_bytes()), image)
    for bad in (b"", b"not an image", tmp_path / "gone.png"):
        with pytest.raises(video.UnreadableVideo):
            read_image(bad)
