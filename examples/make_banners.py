"""Make the example task: banners on street photos, seen in perspective.

    python examples/make_banners.py OUT [--images 48] [--seed 0] [--thing banners|windows]

writes OUT/train and OUT/val, each with images/*.jpg and masks/*.png of the same stems. A mask is
0 on the background and 1..N on its banners (instance labels), or on the windows that can mostly be
seen; the pictures are the same. Everything is drawn here, so the
pictures may be used and shipped freely. Why banners: to a click on one, plain SAM answers with a
letter or a coloured panel about as often as with the whole banner.

This needs numpy, Pillow and OpenCV, not samtune. Pictures are (H, W, 3) float32 RGB in 0..255, or
(H, W, 4) with the colours already multiplied by the alpha in 0..1; sizes are (H, W), points (x, y).
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

SIZE = (576, 768)  # (H, W) of every picture
FRONT = (620, 1300)  # (H, W) of the street front, drawn squarely before the perspective
GROUND = (500, 1300)  # (H, W) of pavement and road, drawn from above
LEAST_WINDOW = 600  # pixels of the picture that a window covers
STOREY = 200  # height of a storey in the street front
BRICKS = "#a5523d #8c4a3a #b5704e #c29a6b #7d5a4a #9c6650".split()
WALLS = "#e8dcc0 #d9c7a3 #cfd2cd #b9c4c9 #e3cdb5 #d8b48a #f0ebe0 #c9b8a8 #a9b7a2 #dcc8c0".split()
PAINTS = "#2f4038 #26374a #5b2a2a #3b3b3d #7a5a3a #8f9ea3 #46604f #d8d4c8".split()
CLOTHS = (  # cloth, pattern, ink
    "#fca311 #ffffff #14213d|#b3001b #1f1f1f #f7f0dc|#f7f0dc #e4572e #17324d|"
    "#ffd23f #ee4266 #1b1b3a|#0b6e4f #e9d8a6 #0a1f1c|#ffffff #1d70b8 #111111|"
    "#fb8b24 #f2e9e4 #5f0f40|#e9c46a #2a9d8f #264653|#222222 #f2c14e #e8e8e8|"
    "#f28482 #f6bd60 #3d405b|#1d70b8 #ffe066 #0d1b2a|#dfe7e0 #84a98c #2f3e46"
).split("|")
HEADLINES = (
    "FARMERS MARKET|SUMMER SALE|GRAND OPENING|JAZZ NIGHT|BOOK FAIR|FRESH BREAD|LIVE MUSIC|WELCOME|"
    "FLEA MARKET|ART SHOW|OPEN TODAY|COFFEE|BIKE REPAIR|TO LET|PIZZA|FILM WEEK|CHESS CLUB|CITY RUN"
).split("|")
DETAILS = "Saturday 9-14|every Sunday|since 1984|1-12 June|free entry|all welcome".split("|")
EMBLEMS = "50%|NEW|7|A|&|GO|24h|3x".split("|")

Array = np.ndarray
Drawing = ImageDraw.ImageDraw
Rng = np.random.Generator
Size = tuple[int, int]  # (H, W)
Box = tuple[int, int, int, int]  # x, y, width, height


def noise(rng: Rng, size: Size, cell: tuple[float, float]) -> Array:
    """Smooth noise (H, W, 1) in -1..1 with blobs of about `cell` (H, W) pixels."""
    grid = (max(2, int(size[0] / cell[0])), max(2, int(size[1] / cell[1])))
    coarse = rng.uniform(-1, 1, grid).astype(np.float32)
    fine: Array = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    return fine[..., None].clip(-1, 1)


def grain(rng: Rng, size: Size, amount: float) -> Array:
    """Factors (H, W, 1) around 1 that roughen a surface."""
    return 1 + amount * rng.standard_normal((*size, 1), np.float32)


def paint(rng: Rng, colours: list[str]) -> Array:
    """One of the colours, (3,), a little off as no two buckets of paint are the same."""
    rgb = np.array(ImageColor.getrgb(str(rng.choice(colours))), np.float32)
    return rgb * rng.uniform(0.88, 1.08) * rng.uniform(0.96, 1.04, 3).astype(np.float32)


def shade(picture: Array, x: int, y: int, w: int, h: int, factor: float) -> None:
    """Multiply a rectangle of the picture by a factor, in place."""
    picture[y : y + h, x : x + w] *= factor


def homography(size: Size, corners: Array) -> Array:
    """What moves a picture's outer corners to the given ones (4, 2), clockwise from top left."""
    h, w = size
    flat = np.array([(0, 0), (w, 0), (w, h), (0, h)], np.float32) - 0.5
    matrix: Array = cv2.getPerspectiveTransform(flat, corners.astype(np.float32))
    return matrix


def over(scene: Array, layer: Array) -> Array:
    """Lay an RGBA layer over the scene."""
    laid: Array = scene * (1 - layer[..., 3:]) + layer[..., :3]
    return laid


def warp(layer: Array, corners: Array) -> Array:
    """See an RGBA layer in perspective, its corners at the given ones of a picture of SIZE."""
    h, w = SIZE
    matrix = homography(layer.shape[:2], 2 * corners + 0.5)
    large = cv2.warpPerspective(layer, matrix, (2 * w, 2 * h))  # shrunk below: smooth edges
    seen: Array = cv2.resize(large, (w, h), interpolation=cv2.INTER_AREA)
    return seen


def masonry(rng: Rng, size: Size, brick: Size, base: Array) -> Array:
    """Bricks or slabs of `brick` (H, W) pixels in running bond, each of its own tone."""
    ys, xs = np.mgrid[: size[0], : size[1]]
    row = ys // brick[0]
    xs = xs + row % 2 * (brick[1] // 2)
    tones = rng.normal(1, 0.08, (row.max() + 1, xs.max() // brick[1] + 1, 1)).astype(np.float32)
    wall: Array = base * tones[row, xs // brick[1]]
    joint = (ys % brick[0] == 0) | (xs % brick[1] == 0)
    wall[joint] = 0.5 * wall[joint] + 0.5 * rng.uniform(90, 180)
    return wall


def draw_wall(rng: Rng, size: Size) -> Array:
    """A wall of brick or plaster, with stains and streaks of rain."""
    wall: Array
    if rng.uniform() < 0.55:
        wall = masonry(rng, size, (8, 24), paint(rng, BRICKS))
    else:
        wall = np.broadcast_to(paint(rng, WALLS), (*size, 3))
    stains = 1 + 0.07 * noise(rng, size, (90, 90)) + 0.05 * noise(rng, size, (200, 9))
    wall = wall * stains * grain(rng, size, 0.03)
    return wall


def draw_window(rng: Rng, wall: Array, x: int, y: int, w: int, h: int) -> None:
    """Draw a window into the wall, in place: recess, frame, glass that reflects, curtains, sill."""
    shade(wall, x - 4, y - 4, w + 8, h + 8, 0.6)
    frame = wall[y + h // 2, x - 6] * 0.3 + 150
    wall[y : y + h, x : x + w] = frame
    bar, panes = max(3, w // 30), max(2, round(w / 60))
    glass = np.linspace(rng.uniform(70, 140), 25, h)[:, None, None] * np.array([0.85, 0.97, 1.1])
    glass = glass * (1 + 0.5 * noise(rng, (h, w), (30, 40)))
    if rng.uniform() < 0.4:  # curtains: pale folds at both sides
        side = np.abs(np.linspace(-1, 1, w)) > rng.uniform(0.3, 0.8)
        glass[:, side] = 0.4 * glass[:, side] + (90 + 20 * np.sin(np.arange(w) / 2))[side, None]
    for edge in np.linspace(0, w - bar, panes + 1).astype(int):
        glass[:, edge : edge + bar] = frame
    wall[y + bar : y + h - bar, x : x + w] = glass[bar:-bar]
    shade(wall, x, y, w, h // 14, 0.5)  # the lintel's shadow
    wall[y + h : y + h + 7, x - 7 : x + w + 7] = frame * 0.6 + 75
    shade(wall, x - 4, y + h + 7, w + 12, 6, 0.65)


def draw_house(rng: Rng, h: int, w: int) -> tuple[Array, list[Box]]:
    """One house front: windows in storeys, and on the ground floor a door and maybe a shop.

    Returns:
        The front (h, w, 3), and its windows.
    """
    wall, windows = draw_wall(rng, (h, w)), []
    columns = int(w / rng.uniform(110, 170))
    wide, high = int(w / columns * rng.uniform(0.4, 0.55)), int(STOREY * rng.uniform(0.48, 0.6))
    for top in range(h - 2 * STOREY, -20, -STOREY):
        for column in range(columns):
            left = int((column + 0.5) * w / columns) - wide // 2
            windows.append((left, top + 45, wide, high))
            draw_window(rng, wall, *windows[-1])
    floor, door = h - STOREY + 16, int(rng.uniform(0.1, 0.7) * w)
    if rng.uniform() < 0.6:  # a shop: its front painted, broad glass beside the door
        wall[floor:] = wall[floor:] * 0.2 + 0.8 * paint(rng, PAINTS)
        wall[floor - 10 : floor] = wall[floor - 10 : floor] * 0.4 + 110
        shade(wall, 0, floor, w, 6, 0.65)
        for left, right in ((20, door - 20), (door + 95, w - 20)):
            if right - left > 70:
                windows.append((left, h - 150, right - left, 110))
                draw_window(rng, wall, *windows[-1])
    shade(wall, door - 4, h - 156, 83, 156, 0.5)
    wall[h - 150 :, door : door + 75] = paint(rng, PAINTS)
    for y in (h - 138, h - 72):  # the door's panels
        shade(wall, door + 12, y, 51, 54, 0.75)
        shade(wall, door + 15, y + 3, 48, 51, 1.25)
    shade(wall, 0, h - 14, w, 14, 0.6)  # the dirty foot of the wall
    wall[:12] = wall[:12].mean((0, 1)) * 0.5  # the gutter
    return wall, windows


def draw_front(rng: Rng) -> tuple[Array, list[Box]]:
    """The street front, RGBA, seen squarely; clear where the sky stands above the roofs.

    Returns:
        The front, and its windows, also those that it cuts off.
    """
    front = np.zeros((*FRONT, 4), np.float32)
    windows = []
    x = -int(rng.integers(0, 200))
    while x < FRONT[1]:
        w, roof = int(rng.integers(300, 560)), int(np.clip(rng.normal(20, 90), 0, 250))
        left, right = max(x, 0), min(x + w, FRONT[1])
        house, panes = draw_house(rng, FRONT[0] - roof, w)
        front[roof:, left:right, :3] = house[:, left - x : right - x]
        windows += [(x + at, roof + top, wide, high) for at, top, wide, high in panes]
        front[roof:, left:right, 3] = 1
        x += w
    return front, windows


def draw_ground(rng: Rng) -> Array:
    """Pavement, kerb and road, RGBA, seen from above."""
    ground = masonry(rng, GROUND, (45, 60), np.full(3, rng.uniform(115, 165), np.float32))
    ground[120:] = rng.uniform(70, 100)
    ground[120:132] = 175
    ground *= (1 + 0.1 * noise(rng, GROUND, (60, 60))) * grain(rng, GROUND, 0.05)
    ground[:30] *= np.linspace(0.5, 1, 30)[:, None, None]  # less light by the wall
    return np.dstack([ground, np.ones(GROUND, np.float32)])


def draw_foliage(rng: Rng, scene: Array) -> None:
    """The leaves of a tree at the picture's edge, in place: blobs, lighter towards the top."""
    x, y, radius = rng.choice([0, SIZE[1]]), rng.uniform(60, 480), rng.uniform(60, 130)
    green = rng.uniform((60, 85, 40), (100, 115, 60))
    for depth in np.linspace(0, 1, 1500):
        angle, away = rng.uniform(0, 2 * np.pi), radius * np.sqrt(rng.uniform())
        away *= 1 + 0.2 * np.sin(5 * angle + radius)
        dx, dy = away * np.cos(angle), away * np.sin(angle)
        leaf = green * (0.4 + 0.5 * depth - 0.3 * dy / radius) * rng.uniform(0.7, 1.3)
        axes, turn = rng.integers(2, 7, 2).tolist(), rng.uniform(0, 180)
        cv2.ellipse(scene, (int(x + dx), int(y + dy)), axes, turn, 0, 360, leaf.tolist(), -1)


def label_windows(windows: list[Box], front: Array, hidden: Array) -> Array:
    """Labels 1..N (H, W) of the windows that can mostly be seen and are not tiny.

    Args:
        windows: on the street front, seen squarely.
        front: corners (4, 2) of the street front in the picture.
        hidden: (H, W) bool, where something is in front of it.
    """
    labels, matrix = np.zeros(SIZE, np.uint8), homography(FRONT, front)
    for x, y, w, h in windows:
        square = np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)], np.float32) - 0.5
        corners: Array = cv2.perspectiveTransform(square[None], matrix)[0]
        outline = (corners * 16).round().astype(np.int32)  # in sixteenths of a pixel
        seen = cv2.fillConvexPoly(np.zeros(SIZE, np.uint8), outline, 1, shift=4) > 0
        seen &= ~hidden
        if seen.sum() > max(LEAST_WINDOW, 0.6 * cv2.contourArea(corners)):
            labels[seen] = labels.max() + 1
    return labels


def draw_street(rng: Rng) -> tuple[Array, Array, list[Box], Array]:
    """A street without banners.

    Returns:
        The scene; the corners (4, 2) of its front in the picture; the front's windows; where
        leaves (H, W) hide it.
    """
    h, w = SIZE
    blue, pale = rng.uniform((90, 140, 190), (160, 180, 230)), np.linspace(0, 0.7, h)[:, None, None]
    clouds = noise(rng, SIZE, (70, 160)) + 0.5 * noise(rng, SIZE, (25, 60))
    scene = blue + (240 - blue) * np.maximum(clouds.clip(0, 1), pale)
    # The front's level lines meet at the height of the eye, as in a photo.
    eye, near = rng.uniform(310, 370), rng.uniform(0.7, 1.3, 2)
    left, right = -rng.uniform(20, 200), w + rng.uniform(20, 200)
    top = [(left, eye - 400 * near[0]), (right, eye - 400 * near[1])]
    base = [(left, eye + 125 * near[0]), (right, eye + 125 * near[1])]
    front = np.array([*top, *base[::-1]])
    ground = np.array([*base, (right + 500, h + 250), (left - 500, h + 250)])
    scene = over(scene, warp(draw_ground(rng), ground))
    houses, windows = draw_front(rng)
    scene = over(scene, warp(houses, front))
    bare = scene.copy()
    if rng.uniform() < 0.5:
        draw_foliage(rng, scene)
    return scene, front, windows, (scene != bare).any(axis=2)


def write(draw: Drawing, text: str, box: tuple[float, ...], ink: str) -> None:
    """Write a line as large as the box x0, y0, x1, y1 allows, in its middle."""
    wide, high = box[2] - box[0], box[3] - box[1]
    reach = ImageFont.load_default(100).getbbox(text, stroke_width=3)
    points = min(100 * wide / (reach[2] - reach[0]), 100 * high / (reach[3] - reach[1]))
    font, bold = ImageFont.load_default(max(6, points)), int(points * 0.03)
    middle = (box[0] + wide / 2, box[1] + high / 2)
    draw.text(middle, text, ink, font, anchor="mm", stroke_width=bold, stroke_fill=ink)


def draw_pattern(rng: Rng, draw: Drawing, h: int, w: int, ink: str) -> None:
    """Cover the cloth with stripes, panels, a disc, a plate or rays."""
    kind = rng.choice(["stripes", "panels", "disc", "plate", "rays"])
    if kind == "stripes":
        step, slant = rng.uniform(25, 70), rng.uniform(-1, 1) * h
        for x in np.arange(-h, w + h, 2 * step):
            draw.polygon([(x, 0), (x + step, 0), (x + step + slant, h), (x + slant, h)], ink)
    elif kind == "panels":
        parts = int(rng.integers(2, 5))
        for i in range(0, parts, 2):
            start, end = i / parts, (i + 1) / parts
            draw.rectangle((start * w, 0, end * w, h) if w > h else (0, start * h, w, end * h), ink)
    elif kind == "disc":
        reach = rng.uniform(0.35, 0.48) * min(h, w)
        draw.ellipse((w / 2 - reach, h / 2 - reach, w / 2 + reach, h / 2 + reach), ink)
    elif kind == "plate":
        x, y = w * rng.uniform(0.08, 0.2), h * rng.uniform(0.1, 0.25)
        draw.rectangle((x, y, w - x, h - y), ink)
    elif kind == "rays":
        for turn in range(0, 360, 30):
            draw.pieslice((-w - h, -w - h, 2 * w + h, w + 2 * h), turn, turn + 15, ink)


def draw_badge(rng: Rng, draw: Drawing, h: int, w: int, cloth: str, ink: str) -> None:
    """A badge in the middle, two words at its sides or above and below it."""
    edge, wide = 0.12 * min(h, w), w > 1.5 * h
    x, y, reach = w / 2, h / 2, min(h, w) * (0.36 if wide else 0.21)
    draw.regular_polygon((x, y, reach), int(rng.choice([4, 6, 40])), fill=ink)
    inner = (x - reach / 2, y - reach / 2, x + reach / 2, y + reach / 2)
    write(draw, str(rng.choice(EMBLEMS)), inner, cloth)
    words, away = [*str(rng.choice(HEADLINES)).split(), str(rng.choice(DETAILS))], reach + edge / 2
    left, right = (x - away, x + away) if wide else (w - edge, edge)
    top, bottom = (h - edge, edge) if wide else (y - away, y + away)
    write(draw, words[0], (edge, edge, left, top), ink)
    write(draw, words[1], (right, bottom, w - edge, h - edge), ink)


def draw_lines(rng: Rng, draw: Drawing, h: int, w: int, ink: str) -> None:
    """One to three lines of text, each as wide as the banner."""
    headline, edge = str(rng.choice(HEADLINES)), 0.12 * min(h, w)
    lines = headline.split() if h > 0.4 * w else [headline]
    lines += [str(rng.choice(DETAILS))] if rng.uniform() < 0.6 else []
    step = (h - 2 * edge) / len(lines)
    for i, line in enumerate(lines):
        write(draw, line, (edge, edge + (i + 0.1) * step, w - edge, edge + (i + 0.9) * step), ink)


def draw_banner(rng: Rng, h: int, w: int) -> Array:
    """A banner, RGBA, seen squarely: a patterned cloth, maybe a border, a badge, and text."""
    cloth, pattern, ink = str(rng.choice(CLOTHS)).split()
    sheet = Image.new("RGB", (w, h), cloth)
    draw = ImageDraw.Draw(sheet)
    draw_pattern(rng, draw, h, w, pattern)
    if rng.uniform() < 0.5:
        rim = 0.03 * min(h, w)
        draw.rectangle((rim, rim, w - rim, h - rim), outline=ink, width=int(rim * 2 / 3))
    if rng.uniform() < 0.6:
        draw_badge(rng, draw, h, w, cloth, ink)
    else:
        draw_lines(rng, draw, h, w, ink)
    pixels = np.asarray(sheet, np.float32)
    if rng.uniform() < 0.2:  # bleached by the sun: low contrast
        pixels = 0.35 * pixels + 0.65 * pixels.mean((0, 1))
    return np.dstack([pixels, np.ones((h, w), np.float32)])


def hang(rng: Rng, banner: Array) -> Array:
    """Let a banner sag and fold: its edges swing a little, its folds catch the light."""
    h, w = banner.shape[:2]
    pad = int(0.06 * min(h, w)) + 2
    ys, xs = np.mgrid[-pad : h + pad, -pad : w + pad].astype(np.float32)
    waves, phase = rng.uniform(0.5, 1.3) * max(1, w / h), rng.uniform(0, 2 * np.pi)
    turns = 2 * np.pi * waves * xs / w + phase + rng.uniform(-1.5, 1.5) * ys / h
    reach = rng.uniform(0, 0.6) * pad * np.sin(turns)
    hung = cv2.remap(banner, xs + 0.4 * reach, ys + reach, cv2.INTER_LINEAR)
    folds = 1 + rng.uniform(0.03, 0.13) * np.cos(turns)[..., None]
    size = (h + 2 * pad, w + 2 * pad)
    hung[..., :3] *= folds * (1 + 0.07 * noise(rng, size, (h / 3, w / 8))) * grain(rng, size, 0.02)
    return hung


def choose_corners(rng: Rng, front: Array, taken: Array) -> Array:
    """Corners (4, 2) of a banner on the street front, askew, wholly inside, clear of the taken."""
    h, w = SIZE
    while True:
        area, aspect = rng.uniform(0.08, 0.35) * h * w, np.exp(rng.uniform(-0.8, 1.4))
        half = np.sqrt((area * aspect, area / aspect)) / 2
        square = half * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
        square += rng.uniform(-0.25, 0.25, (4, 2)) * half.min()
        sine = rng.normal(0, 0.07)
        square = square @ np.array([(1, sine), (-sine, 1)])
        placed = (square + rng.uniform((0, 0), FRONT[::-1])).astype(np.float32)
        corners: Array = cv2.perspectiveTransform(placed[None], homography(FRONT, front))[0]
        if (corners > 12).all() and (corners < (w - 12, h - 12)).all():
            room = cv2.fillConvexPoly(np.zeros(SIZE, np.uint8), corners.astype(np.int32), 1)
            if not taken[cv2.dilate(room, np.ones((31, 31))) > 0].any():
                return corners


def paste(rng: Rng, scene: Array, banner: Array, corners: Array) -> tuple[Array, Array]:
    """Hang a banner in the scene; also its mask (H, W) bool: the pixels that are mostly banner."""
    layer = warp(hang(rng, banner), corners)
    shadow = cv2.GaussianBlur(layer[..., 3], (0, 0), rng.uniform(1.5, 5))
    shadow = np.roll(shadow, rng.integers(2, 9, 2), (0, 1)) * rng.uniform(0.25, 0.6)
    return over(scene * (1 - shadow[..., None]), layer), layer[..., 3] > 0.5


def photograph(rng: Rng, scene: Array) -> Image.Image:
    """The scene as a camera sees it: uneven light, a shadow across the street, blur, noise."""
    h, w = SIZE
    light = np.ones(SIZE, np.float32)
    if rng.uniform() < 0.5:
        x, slope = rng.uniform(0, w), rng.uniform(-200, 200)
        dark = np.array([(x, 0), (x + slope, h), (2 * w, h), (2 * w, 0)], np.int32)
        cv2.fillPoly(light, [dark], rng.uniform(0.5, 0.8))
    light = cv2.GaussianBlur(light, (0, 0), rng.uniform(2, 12)) * rng.uniform(0.9, 1.15)
    scene = scene * light[..., None] * (1 + 0.12 * noise(rng, SIZE, (250, 250)))
    photo = cv2.GaussianBlur(scene * rng.uniform(0.94, 1.06, 3), (0, 0), rng.uniform(0.4, 1))
    photo = photo + rng.normal(0, rng.uniform(2, 5), photo.shape)
    return Image.fromarray(photo.clip(0, 255).astype(np.uint8))


def make_picture(rng: Rng) -> tuple[Image.Image, dict[str, Array]]:
    """A photo with one or two banners, and the labels 1..N (H, W) of each kind of thing."""
    scene, front, windows, hidden = draw_street(rng)
    labels = np.zeros(SIZE, np.uint8)
    for label in range(1, int(rng.integers(2, 4))):
        corners = choose_corners(rng, front, labels)
        right, down = corners[1] - corners[0], corners[3] - corners[0]
        banner = draw_banner(rng, int(1.5 * np.hypot(*down)), int(1.5 * np.hypot(*right)))
        scene, mask = paste(rng, scene, banner, corners)
        labels[mask] = label
    panes = label_windows(windows, front, hidden | (labels > 0))
    return photograph(rng, scene), {"banners": labels, "windows": panes}


def make_dataset(out: Path, images: int, seed: int, thing: str = "banners") -> None:
    """Write the pictures and the masks of one kind of thing; every fourth goes to val."""
    for index in range(images):
        folder = out / ("val" if index % 4 == 3 else "train")
        for name in ("images", "masks"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng((seed, index))  # so a picture does not depend on their number
        photo, labels = make_picture(rng)
        photo.save(folder / "images" / f"banner_{index:03d}.jpg", quality=int(rng.integers(75, 93)))
        Image.fromarray(labels[thing]).save(folder / "masks" / f"banner_{index:03d}.png")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Make the example task: banners on street photos.")
    parser.add_argument("out", type=Path, help="folder to write train/ and val/ into")
    parser.add_argument("--images", type=int, default=48, help="how many, a quarter for val/")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same pictures")
    parser.add_argument(
        "--thing",
        choices=("banners", "windows"),
        default="banners",
        help="what the masks show; the pictures are the same",
    )
    arguments = parser.parse_args()
    if arguments.images < 4:
        parser.error("--images must be at least 4: every fourth picture goes to val/")
    make_dataset(arguments.out, arguments.images, arguments.seed, arguments.thing)


if __name__ == "__main__":
    main()
