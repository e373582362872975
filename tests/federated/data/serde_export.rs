//! Writes the fixture `serde_export.json`: an export in the field layout of ruvector-sona 0.1.4,
//! serialised by serde_json; also reads JSON back into that layout (argument: a file).
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct AgentExport {
    agent_id: String,
    trajectories: Vec<TrajectoryExport>,
    stats: AgentExportStats,
    session_duration_ms: u64,
    timestamp: u64,
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct TrajectoryExport {
    embedding: Vec<f32>,
    quality: f32,
    route: Option<String>,
    context: Vec<String>,
    timestamp: u64,
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct AgentExportStats {
    total_trajectories: usize,
    avg_quality: f32,
    patterns_learned: usize,
}

fn main() {
    if let Some(path) = std::env::args().nth(1) {
        let text = std::fs::read_to_string(path).expect("readable file");
        let export: AgentExport = serde_json::from_str(&text).expect("the crate's layout");
        println!("{}", serde_json::to_string(&export).expect("serialisable"));
        return;
    }
    let mut state: u32 = 2463534242;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32
    };
    let trajectories: Vec<_> = (0..4u64)
        .map(|i| TrajectoryExport {
            embedding: (0..8).map(|_| uniform() * 2.0 - 1.0).collect(),
            quality: [0.8, 0.3, 1.0, 0.55][i as usize],
            route: [Some("code".to_string()), None, Some("caf\u{e9}".to_string()), Some("code".to_string())]
                [i as usize].clone(),
            context: (0..i).map(|j| format!("file:{j}.rs")).collect(),
            timestamp: 1_700_000_000_000 + i,
        })
        .collect();
    let export = AgentExport {
        agent_id: "agent-1".into(),
        trajectories,
        stats: AgentExportStats { total_trajectories: 4, avg_quality: 0.6625, patterns_learned: 0 },
        session_duration_ms: 1000,
        timestamp: 1_700_000_001_000,
    };
    println!("{}", serde_json::to_string(&export).expect("serialisable"));
}
