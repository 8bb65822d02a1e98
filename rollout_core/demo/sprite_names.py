"""The sprites on the sheet, in its order, and which of them training never shows."""

COLUMNS = 8
CELL = 96
"""Side of a sprite on the sheet, in pixels."""

TRAINING_SPRITES = {
    "dog": "🐶", "rabbit": "🐰", "fox": "🦊", "panda": "🐼", "lion": "🦁", "pig": "🐷",
    "frog": "🐸", "monkey": "🐵", "chick": "🐥", "owl": "🦉", "turtle": "🐢", "fish": "🐠",
    "butterfly": "🦋", "ladybird": "🐞", "snail": "🐌", "unicorn": "🦄",
    "car": "🚗", "bus": "🚌", "tractor": "🚜", "boat": "⛵", "rocket": "🚀", "fire engine": "🚒",
    "apple": "🍎", "orange": "🍊", "watermelon": "🍉", "strawberry": "🍓", "pineapple": "🍍",
    "grapes": "🍇", "football": "⚽", "basketball": "🏀", "volleyball": "🏐",
    "present": "🎁", "teddy": "🧸", "clock": "⏰", "camera": "📷", "toolbox": "🧰",
    "gear": "⚙️", "bell": "🔔", "drum": "🥁", "mushroom": "🍄", "sunflower": "🌻",
    "cupcake": "🧁",
}  # fmt: skip
HELD_OUT_SPRITES = {
    "cat": "🐱", "bear": "🐻", "tiger": "🐯", "penguin": "🐧", "octopus": "🐙", "bee": "🐝",
    "taxi": "🚕", "blue car": "🚙", "lemon": "🍋", "tomato": "🍅", "billiard ball": "🎱",
    "balloon": "🎈", "doughnut": "🍩", "backpack": "🎒",
}  # fmt: skip
SPRITES = TRAINING_SPRITES | HELD_OUT_SPRITES
