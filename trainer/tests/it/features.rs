//! Features files: of NumPy arrays as MM-CoT publishes them, of pictures, and for a student of another width.

use schemas::settings::StudentSettings;
use schemas::{Dataset, Problem, Provenance, table};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;
use trainer::data::corpus::Corpus;
use trainer::data::vision::vit::Vit;
use trainer::data::vision::{ImageFeatures, extract, features, npy};
use trainer::init::FeatureWidth;
use trainer::model::mm_t5::StudentConfig;

/// A dataset of problems p0 … p4; p0 has a picture.
fn dataset(folder: &Path) -> Dataset {
    let dataset = Dataset::at(folder);
    let rows = (0..5).map(|number| Problem {
        image: (number == 0).then(|| "images/p0.png".to_owned()),
        ..crate::small::problem(number)
    });
    table::write(&dataset.problems_path(), rows, &Provenance::new("test", "")).expect("written");
    dataset
}

fn array(descr: &str, shape: &str, numbers: &[f32]) -> Vec<u8> {
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    bytes
}

struct Published {
    _kept: TempDir,
    dataset: Dataset,
    array: PathBuf,
    map: PathBuf,
}

/// Three pictures of two patches, 4 wide; p2 and p0 are problems of the dataset.
fn published() -> Published {
    let kept = TempDir::new().expect("folder");
    let (file, map) = (kept.path().join("detr.npy"), kept.path().join("name_map.json"));
    let numbers: Vec<f32> = (0..24u8).map(|number| f32::from(number) / 8.0).collect();
    fs::write(&file, array("<f4", "(3, 2, 4)", &numbers)).expect("written");
    fs::write(&map, r#"{"p2": 0, "elsewhere": 1, "p0": "2"}"#).expect("written");
    let dataset = dataset(&kept.path().join("data"));
    Published { dataset, array: file, map, _kept: kept }
}

impl Published {
    fn import(&self) -> Result<String, String> {
        npy::import(&self.dataset, &self.array, &self.map, "detr", false).map_err(|error| error.to_string())
    }

    fn refused(&self, file: &Path) -> String {
        let message = self.import().expect_err("broken");
        assert!(!self.dataset.vision_path("detr").exists(), "nothing appears");
        let left = fs::read_dir(self.dataset.root().join("vision")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "nothing is left beside it");
        let begin = format!("{}: ", file.display());
        message.strip_prefix(&begin).unwrap_or_else(|| panic!("{message}")).to_owned()
    }
}

#[test]
fn published_features_are_taken_over() {
    let published = published();
    let line = published.import().expect("imported");
    let path = published.dataset.vision_path("detr");
    assert_eq!(line, format!("{}: features of 2 pictures, 2 patches, 4 wide", path.display()));
    let features = ImageFeatures::open(&path, 4).expect("features");
    assert_eq!(features.len(), 2);
    assert_eq!(ImageFeatures::width_of(&path).expect("width"), 4);
    let found = features.batch(&["p0", "p1", "p2"], Device::Cpu);
    let all = Tensor::arange(24, (Kind::Float, Device::Cpu)).view([3, 2, 4]) / 8.0;
    let none = Tensor::zeros([2, 4], (Kind::Float, Device::Cpu));
    assert!(found.equal(&Tensor::stack(&[all.get(2), none, all.get(0)], 0)), "{found}");

    // A problem without a picture still uses existing features.
    let settings = StudentSettings { vision: "detr".into(), ..StudentSettings::default() };
    let config = StudentConfig::named("tiny", 128, 4).expect("shape");
    let corpus = Corpus::open(&published.dataset, &settings, &config).expect("corpus");
    assert!(corpus.features.has("p2"));
}

#[test]
fn a_row_alone_is_a_single_patch_and_other_floats_do_too() {
    let published = published();
    fs::write(&published.array, array("<f4", "(3, 8)", &[0.5; 24])).expect("written");
    published.import().expect("imported");
    let features = ImageFeatures::open(&published.dataset.vision_path("detr"), 8).expect("features");
    assert_eq!(features.batch(&["p0"], Device::Cpu).size(), [1, 1, 8]);

    // Twelve numbers of 8 bytes each.
    let doubles: Vec<f32> = (0..12).flat_map(|_| [0.0, 1.875]).collect();
    fs::write(&published.array, array("<f8", "(3, 2, 2)", &doubles)).expect("written");
    published.import().expect("imported");
    let features = ImageFeatures::open(&published.dataset.vision_path("detr"), 2).expect("features");
    assert!(features.batch(&["p0"], Device::Cpu).eq(1.0).all().int64_value(&[]) == 1);
}

#[test]
fn broken_arrays_are_refused() {
    let published = published();
    let refused = |bytes: &[u8]| {
        fs::write(&published.array, bytes).expect("written");
        published.refused(&published.array)
    };
    let message = refused(b"PK\x03\x04 and so on, as torch.save writes");
    assert_eq!(
        message,
        "expected a NumPy array (.npy), found something else; convert a .pth once with: python -c \"import torch, \
         numpy; numpy.save('features.npy', torch.load('features.pth', map_location='cpu').float().numpy())\""
    );
    assert_eq!(
        refused(&array(">f4", "(3, 2, 4)", &[0.0; 24])),
        "descr: expected little-endian floats (<f2, <f4, <f8), found `>f4`"
    );
    assert_eq!(
        refused(&array("<f4", "(3, 2, 2, 2)", &[0.0; 24])),
        "shape: expected [pictures, patches, width], found [3, 2, 2, 2]"
    );
    assert_eq!(
        refused(&array("<f4", "(3, 2, 4)", &[0.0; 23])),
        "expected [3, 2, 4] numbers of <f4, 96 bytes, found 92 bytes"
    );
    let mut numbers = [0.0; 24];
    numbers[20] = 1e9;
    assert_eq!(
        refused(&array("<f4", "(3, 2, 4)", &numbers)),
        "problem `p0`: expected finite numbers within float16, found others"
    );
}

#[test]
fn broken_name_maps_are_refused() {
    let published = published();
    let refused = |text: &str| {
        fs::write(&published.map, text).expect("written");
        published.refused(&published.map)
    };
    assert_eq!(refused(r#"{"p2": 3}"#), "problem `p2`: expected a row below 3, found 3");
    assert_eq!(refused(r#"{"p2": -1}"#), "problem `p2`: expected the number of a row, found -1");
    let root = published.dataset.root().display().to_string();
    assert_eq!(refused(r#"{"x": 0, "y": 1}"#), format!("expected problems of {root}, found none among 2"));
    assert!(refused("[]").starts_with("expected a JSON object, problem id to row: "));
}

#[test]
fn a_student_of_another_width_is_refused_with_what_to_do() {
    let published = published();
    published.import().expect("imported");
    let path = published.dataset.vision_path("detr");
    let error = ImageFeatures::open(&path, 256).expect_err("another width");
    assert_eq!(
        error.to_string(),
        format!("{}: expected features 256 wide, as the student takes them, found 4", path.display())
    );
    assert_eq!(
        error.hint(),
        Some("make a student for these features (train init --image-feature-width 4), or other features")
    );
}

#[test]
fn features_of_unlike_shapes_are_refused() {
    let kept = TempDir::new().expect("folder");
    let path = kept.path().join("vit.safetensors");
    let half = |shape: [i64; 2]| Tensor::zeros(shape, (Kind::Half, Device::Cpu));
    let rows = [("a".to_owned(), half([2, 4])), ("b".to_owned(), half([3, 4]))].into();
    let error = features::write(&path, &rows, "vit").expect_err("unlike").to_string();
    assert_eq!(error, format!("{}: expected 1 more of shape [2, 4], found one of [3, 4]", path.display()));
    assert_eq!(fs::read_dir(kept.path()).expect("folder").count(), 0, "nothing is left");
    let tensor = Tensor::zeros([2, 4], (Kind::Float, Device::Cpu));
    trainer::checkpoint::hf::write_safetensors(&path, [("a".to_owned(), &tensor)], &[]).expect("written");
    let error = ImageFeatures::open(&path, 4).expect_err("float32").to_string();
    assert_eq!(
        error,
        format!("{}: problem `a`: expected F16 [patches, width], found F32 [2, 4]", path.display())
    );
}

#[test]
fn a_new_students_width_is_that_of_the_features() {
    let kept = TempDir::new().expect("folder");
    let dataset = dataset(&kept.path().join("data"));
    let data = Some(dataset.root());
    fs::create_dir_all(dataset.images_dir()).expect("folder");
    fs::write(dataset.images_dir().join("p0.png"), crate::small::PICTURE).expect("written");
    assert!(matches!(FeatureWidth::choose(None, data, "vit").expect("width"), FeatureWidth::Unknown));
    let (network, alone) = (Vit::seeded(7), trainer::collective::Group::alone());
    extract::extract(&dataset, &network, "vit", Device::Cpu, Duration::MAX, false, &alone).expect("features");
    let path = dataset.vision_path("vit");
    let features = ImageFeatures::open(&path, 128).expect("features");
    assert_eq!(features.batch(&["p0"], Device::Cpu).size(), [1, 17, 128]);

    assert!(matches!(FeatureWidth::choose(None, data, "vit").expect("width"), FeatureWidth::Of(128, _)));
    assert!(matches!(FeatureWidth::choose(Some(128), data, "vit").expect("width"), FeatureWidth::Asked(128)));
    let error = FeatureWidth::choose(Some(1024), data, "vit").expect_err("mismatch");
    let expected =
        format!("--image-feature-width: expected 128, the width of {}, found 1024", path.display());
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.hint(), Some("omit the flag to use the width of the features"));
    assert_eq!(error.exit_code(), 2);
}

/// `train features` on the dataset, flushed after every few pictures.
fn features_of(dataset: &Dataset) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_train"));
    command.args(["features", "--device", "cpu", "--save-every-secs", "0", "--data"]).arg(dataset.root());
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

#[test]
fn features_go_on_where_they_were_killed() {
    let kept = TempDir::new().expect("folder");
    let dataset = Dataset::at(kept.path().join("data"));
    let rows = (0..800).map(|number| Problem {
        image: Some(format!("images/p{number}.png")),
        ..crate::small::problem(number)
    });
    table::write(&dataset.problems_path(), rows, &Provenance::new("test", "")).expect("written");
    fs::create_dir_all(dataset.images_dir()).expect("folder");
    for number in 0..800 {
        fs::write(dataset.images_dir().join(format!("p{number}.png")), crate::small::PICTURE)
            .expect("written");
    }
    let done = |dataset: &Dataset| {
        let output = features_of(dataset).output().expect("train");
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let path = dataset.vision_path("vit");
    assert!(done(&dataset).contains("features of 800 pictures, 128 wide, by the trial network"));
    let undisturbed = fs::read(&path).expect("features");
    assert!(done(&dataset).contains("nothing to do"));
    assert_eq!(fs::read(&path).expect("features"), undisturbed);
    fs::remove_file(&path).expect("removed");

    let mut process = features_of(&dataset).spawn().expect("train");
    let (unfinished, progress) =
        (path.with_file_name(".writing-vit.safetensors"), path.with_file_name(".writing-vit.json"));
    while !fs::read_to_string(&progress).is_ok_and(|text| !text.contains("\"written\":0")) {
        assert!(process.try_wait().expect("train").is_none(), "it ended before it could be killed");
    }
    process.kill().and_then(|()| process.wait()).expect("killed");
    assert!(!path.exists());
    // A marker in the first row shows whether it is recomputed.
    let mut bytes = fs::read(&unfinished).expect("unfinished");
    let row = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    bytes[row] ^= 1;
    fs::write(&unfinished, &bytes).expect("written");
    done(&dataset);
    let mut expected = undisturbed.clone();
    expected[row] ^= 1;
    assert!(fs::read(&path).expect("features") == expected);
    let left: Vec<_> = fs::read_dir(path.parent().expect("folder")).expect("folder").flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");

    // Another picture under the same name is detected.
    fs::write(dataset.images_dir().join("p7.png"), [crate::small::PICTURE, &[0]].concat()).expect("written");
    assert!(!done(&dataset).contains("nothing to do"));
}
